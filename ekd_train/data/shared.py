"""What all workers of one node share through Ray's object store."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .dataset import Dataset
from .packed.fetch import PackStore, fetch


@dataclass(frozen=True, eq=False)
class SharedData:
    """A data set, and weights of finished networks.

    Pickling (protocol 5) leaves the arrays outside the stream, so that Ray keeps them once a node and
    gives every worker a read-only view of the same memory.
    """

    dataset: Dataset
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of the teachers of a search: see `ekd_train.workers.trial_runner.network_arrays`."""
    packs: PackStore | None = None
    """Where packed images are for hosts that lack them; None: all workers are where they were packed."""

    def here(self) -> Dataset:
        """The data set, its packed images on this host. Raises `DataError` if they cannot be had."""
        if self.packs is None or self.dataset.packed is None:
            return self.dataset
        return self.dataset.packed_in(fetch(self.dataset.packed.folder.name, self.packs))

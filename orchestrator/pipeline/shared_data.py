"""Data that all workers of a run read, once on every machine."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ekd_train.data import Dataset
from ekd_train.data.packed.fetch import put
from ekd_train.data.shared import SharedData
from orchestrator.experiment.infrastructure import SHARED_PACKS
from orchestrator.pipeline.progress import View
from orchestrator.planning.capacity import Capacity
from orchestrator.runtime import worker_pool
from orchestrator.storage import Storage


def share(
    dataset: Dataset,
    storage: Storage,
    capacity: Capacity,
    view: View,
    weights: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Any:
    """A `ray.ObjectRef` of a `SharedData`; packed images go to storage where other hosts may train."""
    packs = None
    if dataset.packed is not None and not capacity.own:
        packs = storage.top.child(SHARED_PACKS)
        view.say(f"packed images are put into {packs.uri()}, unless they are there")
        put(dataset.packed.folder, packs)
    return worker_pool.share(SharedData(dataset, weights, packs))

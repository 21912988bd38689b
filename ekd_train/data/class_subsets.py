"""Classes that are kept from a run, so that their images are of no class that its networks know."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .dataset import Source, Split
from .errors import DataError


def without_classes(source: Source, names: Sequence[str]) -> Source:
    """`source` without the classes `names`: in no split, and the others numbered anew in their order.

    Raises:
        DataError: a name that no class has, or fewer than two classes left.
    """
    held_out = _indices(source, names)
    kept = [index for index in range(len(source.class_names)) if index not in held_out]
    if len(kept) < 2:
        raise DataError(
            "data.held_out_classes", f"leaves {len(kept)} of the classes", "leave at least 2 to be learned"
        )
    renumbered = np.full(len(source.class_names), -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))

    def cut(split: Split) -> Split:
        there = split.take(np.isin(split.labels, kept))
        return replace(there, labels=renumbered[there.labels])

    return replace(
        source,
        train=cut(source.train),
        test=None if source.test is None else cut(source.test),
        validation=None if source.validation is None else cut(source.validation),
        class_names=tuple(source.class_names[index] for index in kept),
    )


def only_classes(source: Source, names: Sequence[str]) -> Split:
    """The test images of the classes `names` (all of their images where there is no test split).

    Labels stay as they are in `source`. Raises `DataError` for a name that no class has.
    """
    split = source.train if source.test is None else source.test
    return split.take(np.isin(split.labels, list(_indices(source, names))))


def _indices(source: Source, names: Sequence[str]) -> set[int]:
    known = {name: index for index, name in enumerate(source.class_names)}
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))
            raise DataError("data.held_out_classes", f"there is no class {name!r}", f"the nearest are {near}")
    return {known[name] for name in names}

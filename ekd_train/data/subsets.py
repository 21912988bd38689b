"""Dividing a data set: validation, test, and smaller training sets.

Everything here is a pure function of the labels and of fixed constants, never of the
experiment's seed: runs with different seeds see the same images, so that their results
can be compared, and a smaller training set is always part of a larger one.
"""

import numpy as np

from .dataset import Source, Split
from .errors import DataError
from .seeds import permutation

SUBSET_SEED = 2206
"""The fixed seed of every choice of images."""


def balanced_order(labels: np.ndarray, num_classes: int, purpose: str) -> np.ndarray:
    """An order of all images of which **every prefix** is class-balanced: int64 `(n,)`.

    Image j of a class with m images (in a fixed random order) comes at position j/m, ties in
    class order. So classes of equal size differ by at most one image in any prefix, others
    keep their proportions, and the first `num_classes` images show every class once. Subsets
    are prefixes, hence nested. `purpose` names independent orders.
    """
    position = np.empty(len(labels))
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        shuffled = members[permutation(len(members), "subset", purpose, SUBSET_SEED, label)]
        position[shuffled] = np.arange(len(members)) / max(len(members), 1)
    return np.lexsort((labels, position)).astype(np.int64, copy=False)


def divide(
    source: Source,
    *,
    validation_size: int,
    test_size: int | None,
    train_size: int | None,
    train_fraction: float,
) -> tuple[Split, Split, Split, Split]:
    """Split a source into `(train, validation, test, whole_train)`.

    * test: the files' own, cut to a balanced `test_size`; where they have none, `test_size`
      images are held out of training, class-balanced.
    * validation: the files' own, whole; else the last `validation_size` training images where
      the order is official (CIFAR: 45,000 train, 5,000 validate, as the LatentBE paper has
      it), else held out class-balanced.
    * train: what is left is `whole_train`; of it `train_size` images, and `train_fraction` of
      those, class-balanced and nested.

    Raises:
        DataError: naming the settings key that asks for more than there is, or for so little
            that a class would have no image.
    """
    classes = len(source.class_names)
    train, test, validation = source.train, source.test, source.validation
    if test is None:
        if test_size is None:
            raise DataError(
                "data.test_size",
                "is needed, because this data has no test split",
                "say how many images to hold out",
            )
        train, test = _hold_out(train, test_size, classes, "test")
    elif test_size is not None:
        test = _subset(test, test_size, classes, "test", "data.test_size")
    if validation is None:
        if source.official_order:
            _check_hold_out(train, validation_size, classes, "validation")
            train, validation = train.take(slice(-validation_size)), train.take(slice(-validation_size, None))
        else:
            train, validation = _hold_out(train, validation_size, classes, "validation")
    size = len(train) if train_size is None else train_size
    cut = _subset(train, size, classes, "train", "data.train_size") if train_size is not None else train
    if train_fraction < 1:
        cut = _subset(train, round(train_fraction * size), classes, "train", "data.train_fraction")
    return cut, validation, test, train


def _subset(split: Split, size: int, classes: int, purpose: str, key: str) -> Split:
    """The balanced subset of `size` images, kept in the split's own order."""
    if size > len(split):
        raise DataError(
            key, f"asks for {size} of {len(split)} {purpose} images", f"ask for at most {len(split)}"
        )
    if size < classes:
        raise DataError(
            key,
            f"leaves {size} {purpose} images, so that some of the {classes} classes would have none",
            f"keep at least {classes}",
        )
    return split.take(np.sort(balanced_order(split.labels, classes, purpose)[:size]))


def _hold_out(split: Split, size: int, classes: int, purpose: str) -> tuple[Split, Split]:
    """`(rest, held out)`, both in the split's own order; the held-out part is balanced."""
    _check_hold_out(split, size, classes, purpose)
    order = balanced_order(split.labels, classes, purpose)
    return split.take(np.sort(order[size:])), split.take(np.sort(order[:size]))


def _check_hold_out(split: Split, size: int, classes: int, purpose: str) -> None:
    key, available = f"data.{purpose}_size", len(split)
    if size > available - classes:
        raise DataError(
            key,
            f"takes {size} of {available} images, which leaves too few to train {classes} classes",
            f"ask for at most {max(available - classes, 0)}",
        )
    if size < classes:
        raise DataError(
            key, f"of {size} images cannot show all {classes} classes", f"ask for at least {classes}"
        )

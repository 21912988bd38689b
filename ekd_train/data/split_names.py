"""What people call the three splits."""

from collections.abc import Collection

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""In any case; of a hub's data sets, `test` or `validation` may be missing."""

MOST_VALUES = 20
"""Of a column that says which split a row is of."""


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test`; None for a name that nobody uses for one."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def tell_splits(values: Collection[object]) -> bool:
    """Whether a column's distinct values are few, and two or more of them names of different splits.

    >>> tell_splits(["Train", "test", ""]), tell_splits(["train"]), tell_splits(["train", "cat"])
    (True, False, False)
    """
    found = {split_of(value.strip()) for value in values if isinstance(value, str)} - {None}
    return len(found) > 1 and len(values) <= MOST_VALUES

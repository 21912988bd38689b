"""What people call the three splits."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""In any case; of a hub's data sets, `test` or `validation` may be missing."""


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test`; None for a name that nobody uses for one."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)

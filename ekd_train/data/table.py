"""Images that a table names: a CSV or parquet file with a column of paths and one of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ekd_train.settings import DataSettings

from .errors import DataError
from .image_files import Listing, check_image_file, files_at
from .split_names import split_of


def list_table(settings: DataSettings) -> Listing:
    """The images of `data.path`, a CSV or parquet file with columns `path`, `label` and perhaps `split`.

    Paths are relative to `data.root` (default: the table's folder) and stay below it. The classes are the
    labels, sorted as text. Without a split column all rows are training images.

    Raises:
        DataError: the table is missing, damaged, without such columns or rows, or names a file that is no
            image below the root, or a split that nobody knows.
    """
    if settings.path is None:
        raise DataError("data.path", "is needed for table", "set it to a CSV or parquet file")
    from .table_file import read_table  # pandas and pyarrow: a second that only who has a table waits for

    table_file = Path(settings.root or ".") / settings.path
    root = Path(settings.root) if settings.root else table_file.parent
    rows = read_table(table_file)
    paths_key, label_key = settings.image_column or "path", settings.label_column or "label"
    for key, column in (("data.image_column", paths_key), ("data.label_column", label_key)):
        if column not in rows:
            raise DataError(
                table_file,
                f"has no column {column!r} (but {', '.join(list(rows)[:20])})",
                f"rename one, or set {key}",
            )
        if bare := np.flatnonzero(rows[column].str.strip() == "").tolist():
            raise DataError(table_file, f"row {bare[0] + 1} has no {column}", "fill it in, or remove the row")
    names = tuple(sorted(set(rows[label_key])))
    labels = rows[label_key].map({name: index for index, name in enumerate(names)}).to_numpy(np.int64)
    paths = [str(_below(root, name, table_file)) for name in rows[paths_key]]
    splits = _splits(rows["split"].tolist() if "split" in rows else ["train"] * len(rows), table_file)
    return Listing(
        table_file,
        {split: files_at([paths[row] for row in chosen], labels[chosen]) for split, chosen in splits.items()},
        names,
    )


def _below(root: Path, name: str, table_file: Path) -> Path:
    path = root / name
    if "\0" in name or ".." in Path(name).parts or not path.is_relative_to(root):
        raise DataError(
            table_file,
            f"names {name!r}, which is not below {root}",
            "set data.root to the folder of all images",
        )
    check_image_file(path)
    return path


def _splits(written: Sequence[str], table_file: Path) -> dict[str, np.ndarray]:
    """The rows of each split, in their order."""
    split_by_name = {name: split_of(name.strip()) for name in set(written)}
    for name, split in split_by_name.items():
        if split is None:
            raise DataError(
                table_file,
                f"has rows of a split {name!r}",
                "call it train, validation or test, or leave it out",
            )
    splits = np.array([split_by_name[name] for name in written])
    found = {split: np.flatnonzero(splits == split) for split in ("train", "validation", "test")}
    return {split: rows for split, rows in found.items() if len(rows) or split == "train"}

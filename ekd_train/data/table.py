"""Images that a table names: a CSV or parquet file with a column of paths and one of labels."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ekd_train.settings import DataSettings

from .errors import DataError
from .image_files import Listing, check_image_file, files_at
from .split_names import MOST_VALUES, split_of, tell_splits

if TYPE_CHECKING:
    from pandas import DataFrame

LOOKED_AT = 1000
"""Rows of a column, before all of its values are: paths and numbers are told by these."""


def list_table(settings: DataSettings) -> Listing:
    """The images of `data.path`, a CSV or parquet file with columns `path`, `label` and perhaps `split`.

    Paths are relative to `data.root` (default: the table's folder) and stay below it. The classes are the
    labels, sorted as text. Without a split column all rows are training images. Columns are found in any
    case of their names, unless the settings name them.

    Raises:
        DataError: the table is missing, damaged, without such columns or rows, has splits in a column that is
            not used, or names a file that is no image below the root, or a split that nobody knows.
    """
    if settings.path is None:
        raise DataError("data.path", "is needed for table", "set it to a CSV or parquet file")
    from .table_file import read_table  # pandas and pyarrow: a second that only who has a table waits for

    table_file = Path(settings.root or ".") / settings.path
    root = Path(settings.root) if settings.root else table_file.parent
    rows = read_table(table_file)
    paths_key = _column(rows, table_file, "data.image_column", settings.image_column, "path")
    label_key = _column(rows, table_file, "data.label_column", settings.label_column, "label")
    split_key = None
    if settings.split_column is not None or _called(rows, "split"):
        split_key = _column(rows, table_file, "data.split_column", settings.split_column, "split")
    for column in (paths_key, label_key):
        if bare := np.flatnonzero(rows[column].str.strip() == "").tolist():
            raise DataError(table_file, f"row {bare[0] + 1} has no {column}", "fill it in, or remove the row")
    for column in set(rows) - {paths_key, label_key, split_key}:
        few = rows[column].iloc[:LOOKED_AT].nunique() <= MOST_VALUES
        if few and tell_splits(rows[column].unique().tolist()):
            raise DataError(
                table_file,
                f"has names of splits in its column {column!r}, which is not used",
                f"set data.split_column to {column}, or remove it",
            )
    names = tuple(sorted(set(rows[label_key])))
    labels = rows[label_key].map({name: index for index, name in enumerate(names)}).to_numpy(np.int64)
    roots = (root, os.path.abspath(root), root.resolve())  # as others write it: whole, or without links
    paths = [str(_below(root, name, roots, table_file)) for name in rows[paths_key]]
    splits = _splits(["train"] * len(rows) if split_key is None else rows[split_key].tolist(), table_file)
    return Listing(
        table_file,
        {split: files_at([paths[row] for row in chosen], labels[chosen]) for split, chosen in splits.items()},
        names,
    )


def _column(rows: "DataFrame", table_file: Path, key: str, written: str | None, usual: str) -> str:
    """The column that `key` names, else the one that is called `usual`, in that or else in any case.

    Raises `DataError`: there is none, or two differ in their case alone.
    """
    found = [name for name in rows if name == written] if written else _called(rows, usual)
    if len(found) == 1 or usual in found:
        return usual if usual in found else found[0]
    problem = (
        f"has the columns {', '.join(found)}"
        if found
        else f"has no column {written or usual!r} (but {', '.join(list(rows)[:20])})"
    )
    raise DataError(table_file, problem, f"rename one, or set {key}")


def _called(rows: "DataFrame", usual: str) -> list[str]:
    return [name for name in rows if name.strip().casefold() == usual]


def _below(root: Path, name: str, roots: Sequence[str | Path], table_file: Path) -> Path:
    """The image `name`: relative to `root`, or an absolute path below one of `roots`. Raises `DataError`."""
    path = root / name
    below = not Path(name).is_absolute() or any(path.is_relative_to(whole) for whole in roots)
    if "\0" in name or ".." in Path(name).parts or not below:
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

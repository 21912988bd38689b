"""Images that a table names: a CSV or parquet file with a column of paths and one of labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ekd_train.settings import DataSettings

from .errors import DataError
from .image_files import Listing, check_image_file, files_at
from .split_names import split_of

if TYPE_CHECKING:
    import pandas
    import pyarrow

MOST_BYTES = 1 << 30
"""Of the table, not of its images, packed and unpacked."""

MOST_ROWS = 20_000_000
"""Each becomes a path, of some hundred bytes."""

ROWS_AT_ONCE = 1024
"""Of a parquet file: what it unpacks to is counted after each so many."""


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
    table_file = Path(settings.root or ".") / settings.path
    root = Path(settings.root) if settings.root else table_file.parent
    rows = _read(table_file)
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
    paths = [_below(root, name, table_file) for name in rows[paths_key]]
    splits = _splits(rows["split"].tolist() if "split" in rows else ["train"] * len(rows), table_file)
    return Listing(
        table_file,
        {split: files_at([paths[row] for row in chosen], labels[chosen]) for split, chosen in splits.items()},
        names,
    )


def _read(file: Path) -> "pandas.DataFrame":
    """Every column as text."""
    import pandas  # half a second that only who reads a table waits for

    try:
        if not file.is_file():
            raise DataError(file, "is no file", "check data.path and data.root")
        if file.stat().st_size > MOST_BYTES:
            raise DataError(file, f"is larger than {MOST_BYTES >> 30} GiB", "is it the table?")
        if file.suffix.lower() == ".parquet":
            rows = _read_parquet(file).astype("string").fillna("")
        else:  # as it is, whatever its name: a small file may unpack to any size
            rows = pandas.read_csv(
                file, dtype="string", keep_default_na=False, encoding="utf-8-sig", compression=None
            )
    except DataError:
        raise
    except Exception as error:  # whatever the parsers say of bytes that they do not expect
        raise DataError(
            file, f"cannot be read as a table ({error})", "save it as CSV (UTF-8) or parquet"
        ) from error
    if rows.empty:
        raise DataError(file, "has no rows", "add some")
    if len(rows) > MOST_ROWS:
        raise DataError(file, f"has more than {MOST_ROWS} rows", "split it")
    return rows


def _read_parquet(file: Path) -> "pandas.DataFrame":
    """Raises `ValueError` for a file that unpacks to more than `MOST_BYTES`, and whatever pyarrow does."""
    import pyarrow
    from pyarrow import parquet

    batches, size, rows = [], 0, 0
    with parquet.ParquetFile(file) as opened:
        schema = pyarrow.schema(
            [_plain(field) for field in opened.schema_arrow], opened.schema_arrow.metadata
        )
        for batch in opened.iter_batches(ROWS_AT_ONCE):
            batches.append(pyarrow.Table.from_batches([batch]).cast(schema))
            size, rows = size + batches[-1].nbytes, rows + len(batch)
            if size > MOST_BYTES or rows > MOST_ROWS:
                raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MiB, or {MOST_ROWS} rows")
    frame: pandas.DataFrame = pyarrow.concat_tables(batches or [schema.empty_table()]).to_pandas()
    return frame


def _plain(field: "pyarrow.Field") -> "pyarrow.Field":
    """Without a dictionary, through which a row takes a byte and stands for any text."""
    import pyarrow

    is_dictionary = pyarrow.types.is_dictionary(field.type)
    return pyarrow.field(field.name, field.type.value_type) if is_dictionary else field


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

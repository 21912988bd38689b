"""Reading a table that somebody else made, CSV or parquet, within bounds."""

from pathlib import Path

import pandas
import pyarrow
from pyarrow import parquet

from .errors import DataError

MOST_BYTES = 1 << 30
"""Of the table, not of its images, packed and unpacked."""

MOST_ROWS = 20_000_000
"""Each becomes a path, of some hundred bytes."""

ROWS_AT_ONCE = 1024
"""Of a parquet file: what it unpacks to is counted after each so many."""


def read_table(file: Path) -> pandas.DataFrame:
    """Every column as text. Raises `DataError`."""
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


def _read_parquet(file: Path) -> pandas.DataFrame:
    """Raises `ValueError` for a file that unpacks to more than `MOST_BYTES`, and whatever pyarrow does."""
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


def _plain(field: pyarrow.Field) -> pyarrow.Field:
    """Without a dictionary, through which a row takes a byte and stands for any text."""
    is_dictionary = pyarrow.types.is_dictionary(field.type)
    return pyarrow.field(field.name, field.type.value_type) if is_dictionary else field

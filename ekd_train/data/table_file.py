"""Reading a table that somebody else made, CSV or parquet, within bounds."""

from pathlib import Path

import pandas
import pyarrow
import pyarrow.compute
from pyarrow import parquet

from ekd_train.regular_file import open_regular

from .errors import DataError

MOST_BYTES = 1 << 30
"""Of the table, not of its images, packed and unpacked."""

MOST_ROWS = 20_000_000
"""Each becomes a path, of some hundred bytes."""

MOST_COLUMNS = 1000
MOST_TEXT = 64 << 10
"""Bytes of a path, a label, or the line of columns' names."""

TEXT = "string[pyarrow]"
"""pandas' type of a column: bytes beside each other, and not an object a row."""

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
            rows = _whole_numbers(_read_parquet(file)).astype(TEXT).fillna("")
        else:
            rows = _read_csv(file)
    except DataError:
        raise
    except Exception as error:  # whatever the parsers say of bytes that they do not expect
        raise DataError(
            file, f"cannot be read as a table ({error})", "save it as CSV (UTF-8) or parquet"
        ) from error
    if rows.empty:
        raise DataError(file, "has no rows", "add some")
    return rows


def _read_csv(file: Path) -> pandas.DataFrame:
    """As it is, whatever its name: a packed one may unpack to any size.

    Raises `ValueError` beyond the bounds, and whatever pandas does.
    """
    with open_regular(file) as opened:
        header = opened.readline(MOST_TEXT)
    if len(header) == MOST_TEXT or header.count(b",") > MOST_COLUMNS:
        raise ValueError(
            f"its first line is longer than {MOST_TEXT} bytes, or has over {MOST_COLUMNS} columns"
        )
    parts, rows = [], 0
    with pandas.read_csv(
        file,
        dtype=TEXT,
        keep_default_na=False,
        encoding="utf-8-sig",
        compression=None,
        chunksize=100 * ROWS_AT_ONCE,
    ) as reader:
        for part in reader:
            parts.append(part)
            rows += len(part)
            if rows > MOST_ROWS:
                raise ValueError(f"it has more than {MOST_ROWS} rows")
    return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()


def _read_parquet(file: Path) -> pandas.DataFrame:
    """Its columns of plain values.

    Raises `ValueError` for a file that unpacks to more than `MOST_BYTES`, and whatever pyarrow does.
    """
    with parquet.ParquetFile(file) as opened:
        fields = [field for field in opened.schema_arrow if not pyarrow.types.is_nested(field.type)]
        texts = [field.name for field in fields if _is_text(_plain(field).type)]
    # A page names each of its texts once, and by number row by row: a few bytes may stand for any length.
    with parquet.ParquetFile(file, read_dictionary=texts) as opened:
        schema = pyarrow.schema([_plain(field) for field in fields])
        batches, size, rows = [], 0, 0
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=[field.name for field in fields]):
            _check_texts(batch)
            batches.append(pyarrow.Table.from_batches([batch]).cast(schema))
            size, rows = size + batches[-1].nbytes, rows + len(batch)
            if size > MOST_BYTES or rows > MOST_ROWS:
                raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MiB, or {MOST_ROWS} rows")
    frame: pandas.DataFrame = pyarrow.concat_tables(batches or [schema.empty_table()]).to_pandas()
    return frame


def _whole_numbers(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Class 1 is `1`, not `1.0`, where whole numbers are kept as fractions, as pandas does beside a gap."""
    for name in rows.select_dtypes("floating").columns:
        known = rows[name].dropna()
        if (known % 1 == 0).all() and known.abs().le(2**53).all():
            rows[name] = rows[name].astype("Int64")
    return rows


def _is_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_binary))


def _check_texts(batch: pyarrow.RecordBatch) -> None:
    for column in batch.columns:
        values = column.dictionary if pyarrow.types.is_dictionary(column.type) else column
        if _is_text(values.type):
            longest = pyarrow.compute.max(pyarrow.compute.binary_length(values)).as_py() or 0
            if longest > MOST_TEXT:
                raise ValueError(f"a value has {longest} bytes; paths and labels have {MOST_TEXT} at most")


def _plain(field: pyarrow.Field) -> pyarrow.Field:
    """Without a dictionary, through which a row takes a byte and stands for any text."""
    is_dictionary = pyarrow.types.is_dictionary(field.type)
    return pyarrow.field(field.name, field.type.value_type) if is_dictionary else field

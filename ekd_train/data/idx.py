"""IDX files, the format of MNIST and Fashion-MNIST, plain or gzip'd.

A header of two zero bytes, a type code, the number of axes and each axis as a big-endian
32-bit integer, then the values. Only unsigned bytes (type 0x08) are read: no image data set
uses another.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ekd_train.regular_file import open_regular

from .errors import DataError

UNSIGNED_BYTE = 0x08
MAX_DEFLATE_RATIO = 1032
"""No gzip file can inflate further than this, so a header that promises more is false."""

REMEDY = "fetch the file again"


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes with `axes` axes.

    Raises:
        DataError: the file is missing, unreadable, not IDX, of another type or rank, shorter
            or longer than its header says, or damaged within its gzip stream.
    """
    try:
        with open_regular(path) as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            capacity = path.stat().st_size * (MAX_DEFLATE_RATIO if compressed else 1)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file
            return _read(stream, path, axes, capacity)
    except FileNotFoundError:
        raise DataError(path, "does not exist", "check data.root") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, f"is a damaged gzip file ({error})", REMEDY) from error
    except OSError as error:
        raise DataError(
            path, f"cannot be read ({error.strerror})", "check the file and its permissions"
        ) from error


def _read(stream: BinaryIO, path: Path, axes: int, capacity: int) -> np.ndarray:
    header = stream.read(4)
    if len(header) < 4 or header[:2] != b"\0\0":
        raise DataError(path, f"is not an IDX file (it begins with {header!r})", REMEDY)
    if header[2] != UNSIGNED_BYTE or header[3] != axes:
        raise DataError(
            path,
            f"holds type 0x{header[2]:02x} with {header[3]} axes, not unsigned bytes with {axes}",
            "check that images and labels are not swapped",
        )
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(path, "ends inside its header", REMEDY)
    shape = struct.unpack(f">{axes}I", sizes)
    expected = math.prod(shape)
    if expected > capacity:
        raise DataError(path, f"is truncated: its header promises {expected} bytes of values", REMEDY)
    values = stream.read(expected)
    if len(values) < expected:
        raise DataError(path, f"is truncated: {len(values)} of {expected} bytes of values", REMEDY)
    if stream.read(1):  # for gzip this also reaches, and so checks, the stream's checksum
        raise DataError(path, f"is longer than the {expected} bytes its header promises", REMEDY)
    return np.frombuffer(bytearray(values), dtype=np.uint8).reshape(
        shape
    )  # a bytearray, because torch wants writable memory

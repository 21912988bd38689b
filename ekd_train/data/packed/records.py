"""The encoded images of a packed folder, by number."""

import hashlib
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from ekd_train.data.errors import DataError
from ekd_train.data.image_files import Encoded
from ekd_train.data.packed.index import (
    DIGEST_BYTES,
    PackIndex,
    damaged,
    name_of,
    read_index,
    shard_file,
)

WRITER_OPTIONS = "group_size:1,uncompressed"
"""A record by itself, so that reading one reads no other; JPEGs do not compress further."""

READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
"""Records are asked for in no order: nothing is read ahead, and no thread is started."""


def digest_of(encoded: bytes) -> bytes:
    """What the index keeps of an image's encoded bytes."""
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def write_records(file: Path) -> ArrayRecordWriter:
    """A writer of a shard: `write(encoded)` for each image, then `close()`."""
    return ArrayRecordWriter(str(file), WRITER_OPTIONS)


class Records:
    """Reads records; one of it a process and folder, as `records_in` gives it."""

    def __init__(self, index: PackIndex) -> None:
        self.index = index
        self._readers: dict[int, ArrayRecordReader] = {}

    def image(self, row: int) -> Encoded:
        """Image `row`; its bytes are read, and compared with their digest, when it is opened."""
        return Encoded(f"{self.index.folder}[{row}]", lambda: BytesIO(self._read(row)))

    def named(self, row: int, error: DataError) -> DataError:
        """`error` of image `row`, under the name of the file that was packed."""
        if error.where != self.image(row).name:
            return error
        return DataError(name_of(self.index.folder, row), error.problem, error.remedy)

    def _read(self, row: int) -> bytes:
        shard = int(np.searchsorted(self.index.shards, row, side="right")) - 1
        file = shard_file(self.index.folder, shard)
        first, end = (int(number) for number in self.index.shards[shard : shard + 2])
        try:
            if shard not in self._readers:
                reader = ArrayRecordReader(str(file), READER_OPTIONS)
                if reader.num_records() != end - first:
                    raise ValueError(f"it has {reader.num_records()} records, not {end - first}")
                self._readers[shard] = reader
            encoded: bytes = self._readers[shard].read([row - first])[0]
        except (RuntimeError, ValueError, IndexError) as error:  # of the library, whatever the file is
            raise damaged(file, " ".join(str(error).split())[:200]) from None
        if digest_of(encoded) != self.index.digests[row].tobytes():
            raise damaged(file, f"record {row - first} is not what was packed")
        return encoded


@lru_cache(maxsize=8)
def records_in(folder: Path) -> Records:
    """The records of `folder`, opened once a process. Raises `DataError`."""
    return Records(read_index(folder))

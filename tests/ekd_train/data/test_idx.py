import gzip
import os
import struct

import numpy as np
import pytest

from ekd_train.data.errors import DataError
from ekd_train.data.idx import read_idx

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx_bytes(values, type_code=0x08):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, type_code, values.ndim, *values.shape) + values.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_is_read_plain_or_gzipped(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(VALUES)))
    assert np.array_equal(read_idx(path, axes=3), VALUES)


def break_checksum(content):
    return content[:-8] + bytes(byte ^ 255 for byte in content[-8:-4]) + content[-4:]


def break_stream(content):
    return content[:15] + bytes(10) + content[25:]


HUGE = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
DAMAGED = {
    "empty": (b"", "not an IDX file"),
    "another format": (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
    "another magic number": (b"\0\1" + idx_bytes(VALUES)[2:], "not an IDX file"),
    "another type": (idx_bytes(VALUES, type_code=0x0D), "type 0x0d"),
    "another rank": (idx_bytes(VALUES[0]), "2 axes, not unsigned bytes with 3"),
    "cut in the header": (idx_bytes(VALUES)[:9], "inside its header"),
    "cut in the values": (idx_bytes(VALUES)[:-1], "truncated"),
    "too long": (idx_bytes(VALUES) + b"\0", "longer than"),
    "a false size": (HUGE, "truncated"),
    "a false size in gzip": (gzip.compress(HUGE), "truncated"),
    "cut gzip": (gzip.compress(idx_bytes(VALUES))[:-12], "damaged gzip"),
    "wrong gzip checksum": (break_checksum(gzip.compress(idx_bytes(VALUES))), "damaged gzip"),
    "damaged gzip stream": (break_stream(gzip.compress(idx_bytes(VALUES))), "damaged gzip"),
    "gzip of something else": (gzip.compress(b"hello"), "not an IDX file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, kind):
    content, problem = DAMAGED[kind]
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_idx(path, axes=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_a_link_to_itself_are_named(tmp_path):
    loop = tmp_path / "loop"
    os.symlink(loop, loop)
    for path, problem in [
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "directory"),
        (loop, "symbolic"),
    ]:
        with pytest.raises(DataError, match=problem) as caught:
            read_idx(path, axes=3)
        assert caught.value.where == str(path)


def test_an_unreadable_file_is_named(tmp_path, unprivileged):
    path = unprivileged / "images"
    path.write_bytes(idx_bytes(VALUES))
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied") as caught:
        read_idx(path, axes=3)
    assert caught.value.where == str(path)

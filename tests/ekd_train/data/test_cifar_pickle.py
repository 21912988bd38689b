import contextlib
import os
import pickle
import struct
import time

import numpy as np
import pytest

from ekd_train.data.cifar_pickle import read_pickle
from ekd_train.data.errors import DataError

pytestmark = pytest.mark.attack

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


def python2_pickle(images, labels):
    """What Python 2's cPickle wrote for CIFAR: protocol 2, `str` as BINSTRING, NumPy 1's names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def integers(values):
        return b"(" + b"".join(b"K" + bytes([value]) for value in values)

    raw = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        + b"(K\x01"
        + b"".join(b"M" + struct.pack("<H", size) for size in images.shape)
        + b"\x86cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb"
    )
    return (
        b"\x80\x02}q\x01("
        + text(b"data")
        + array
        + text(b"labels")
        + b"]q\x10"
        + integers(labels)
        + b"e"
        + text(b"batch_label")
        + text(b"training batch 1 of 5")
        + b"u."
    )


def test_the_hand_written_python_2_file_is_what_pickle_reads_too(tmp_path):
    content = python2_pickle(IMAGES, [3, 1, 4, 1])
    expected = pickle.loads(content, encoding="latin1")  # noqa: S301
    assert np.array_equal(expected["data"], IMAGES)
    (tmp_path / "data_batch_1").write_bytes(content)
    found = read_pickle(tmp_path / "data_batch_1")
    assert np.array_equal(found["data"], IMAGES)
    assert found["labels"] == [3, 1, 4, 1]
    assert found["batch_label"] == "training batch 1 of 5"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", ["data", b"data"])
def test_files_of_every_protocol_are_read(tmp_path, protocol, order, key):
    path = tmp_path / "batch"
    labels = [0, 1, 255, 256, 70_000]
    path.write_bytes(pickle.dumps({key: np.array(IMAGES, order=order), "labels": labels}, protocol))
    found = read_pickle(path)
    assert np.array_equal(found["data"], IMAGES)
    assert found["data"].flags.writeable
    assert found["labels"] == labels


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_file_that_calls_a_function_is_refused_and_nothing_runs(tmp_path, protocol):
    path, trace = tmp_path / "batch", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"data": Call(os.mkdir, str(trace))}, protocol))
    with pytest.raises(DataError, match=r"refused: it calls (posix|nt)\.mkdir") as caught:
        read_pickle(path)
    assert caught.value.where == str(path)
    assert not trace.exists()


def nested_tuples(depth):
    """A tuple of 2**depth leaves in a few bytes, hashed and printed only for ever."""
    return b"N" + b"".join(b"q\x01h\x01\x86" for _ in range(depth))


MALICIOUS = {
    "a dictionary key that takes for ever to hash": b"\x80\x02}" + nested_tuples(100) + b"Ns.",
    "a type that takes for ever to print": b"\x80\x02}U\x01dcnumpy\ndtype\n"
    + nested_tuples(100)
    + b"\x85Rs.",
    "a memo index of 4 billion": b"\x80\x02}r\xff\xff\xff\xff" + b"U\x01d" + b"j\xfe\xff\xff\xffs.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "a shape without its bytes": python2_pickle(IMAGES, [1]).replace(b"M\x04\x00", b"M\xff\xff"),
    "an array of objects": python2_pickle(IMAGES, [1]).replace(b"U\x02u1", b"U\x02O8"),
    "an array copied a thousand times": b"\x80\x02}U\x01dq\x01("
    + 1000 * b"c_codecs\nencode\nh\x01U\x06latin1\x86R"
    + b"u.",
    "an array filled a thousand times": b"\x80\x02}U\x01dcnumpy\ndtype\nU\x02u1\x85R" + 1000 * b"Nb" + b"s.",
    "another codec": b"\x80\x02}U\x01dc_codecs\nencode\nU\x01xU\x03bz2\x86Rs.",
    "a persistent id": b"\x80\x02Pid\n.",
    "an extension code": b"\x80\x02\x82\x01.",
    "an object of a class": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "attributes of a name": b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",
    "an integer without end": b"L" + 5000 * b"9" + b"L\n.",
    "not a dictionary": b"\x80\x02].",
    "a mark as the result": b"(.",
    "an empty stack": b"\x80\x02\x85.",
    "no mark": b"\x80\x02t.",
    "an unknown opcode": b"\x80\x02\xff.",
    "text": b"<html>404 Not Found</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_malicious_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "batch"
    path.write_bytes(MALICIOUS[kind])
    started = time.thread_time()  # its own: what else the machine does counts as nothing
    with pytest.raises(DataError) as caught:
        read_pickle(path)
    assert time.thread_time() - started < 2
    assert caught.value.where == str(path)
    assert len(str(caught.value)) < 500


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = python2_pickle(IMAGES[:1], [3])
    path = tmp_path / "batch"
    for length in [*range(0, 200, 7), len(content) - 40, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_pickle(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of the standard library's lexer
def test_files_with_damaged_bytes_are_read_or_refused_but_never_crash(tmp_path):
    content = bytearray(python2_pickle(IMAGES[:1], [3, 4]))
    path, random = tmp_path / "batch", np.random.default_rng(0)
    interesting = [*range(170), *range(len(content) - 60, len(content))]
    for _ in range(1500):
        damaged = content.copy()
        damaged[random.choice(interesting)] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            assert isinstance(read_pickle(path), dict)


def test_missing_and_unreadable_files_are_named(unprivileged):
    with pytest.raises(DataError, match="does not exist"):
        read_pickle(unprivileged / "absent")
    path = unprivileged / "batch"
    path.write_bytes(python2_pickle(IMAGES, [1]))
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_pickle(path)

import contextlib
import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.storage import Conflict, MissingKey, StorageError, open_storage
from orchestrator.storage.atomic_files import PENDING, replacing


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "runs"))


def test_what_was_written_is_read(storage):
    storage.write("a/b", b"1")
    storage.write("a/b", b"2")
    assert storage.read("a/b") == b"2"
    assert storage.exists("a/b")
    assert Path(storage.uri("a/b")).read_bytes() == b"2"
    assert storage.local_folder == Path(storage.uri())


def test_files_go_in_and_out(storage, tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 10_000_000)
    storage.write_file("big", tmp_path / "in")
    storage.read_file("big", tmp_path / "new" / "out")
    assert (tmp_path / "new" / "out").read_bytes() == (tmp_path / "in").read_bytes()


@pytest.mark.parametrize("key", ["absent", "folder", "folder/file/below"])
def test_what_is_not_stored_is_missing(storage, key, tmp_path):
    storage.write("folder/file", b"")
    for read in (storage.read, storage.read_versioned, lambda key: storage.read_file(key, tmp_path / "out")):
        with pytest.raises(MissingKey, match=f"{storage.uri(key)}: nothing is stored here"):
            read(key)
    assert not storage.exists(key)
    assert not (tmp_path / "out").exists()
    storage.delete(key)
    assert storage.list() == ["folder/file"]


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(storage):
    for key in ("b/2", "b/1", "b-2/1", "b/sub/3", "a"):
        storage.write(key, b"")
    assert storage.list() == ["a", "b-2/1", "b/1", "b/2", "b/sub/3"]
    assert storage.list("b") == ["b/1", "b/2", "b/sub/3"]
    assert storage.list("absent") == storage.list("a") == []
    storage.delete_prefix("b")
    storage.delete_prefix("b")
    storage.delete("a")
    storage.delete("a")
    assert storage.list() == ["b-2/1"]
    assert not Path(storage.uri("b")).exists()


def test_a_child_is_rooted_below(storage):
    child = storage.child("run-1")
    child.write("manifest.json", b"{}")
    assert storage.list() == ["run-1/manifest.json"]
    assert child.list() == ["manifest.json"]
    assert child == open_storage(storage.uri("run-1"))


def test_a_conditional_write_succeeds_only_from_the_version_that_was_read(storage):
    first = storage.write_if("manifest", b"1", match=None)
    assert storage.read_versioned("manifest") == (b"1", first)
    second = storage.write_if("manifest", b"2", match=first)
    for match in (None, first):
        with pytest.raises(Conflict):
            storage.write_if("manifest", b"3", match=match)
    assert storage.read_versioned("manifest") == (b"2", second)
    storage.delete("manifest")
    with pytest.raises(Conflict):
        storage.write_if("manifest", b"3", match=second)
    assert storage.list() == []


def test_it_travels_to_other_processes(storage):
    assert pickle.loads(pickle.dumps(storage)) == storage  # noqa: S301 (our own bytes)
    conflict = pickle.loads(pickle.dumps(Conflict("where")))  # noqa: S301
    assert isinstance(conflict, Conflict)
    assert str(conflict) == str(Conflict("where"))


WRITER = """
import sys
from pathlib import Path
from orchestrator.storage import open_storage
storage = open_storage(sys.argv[1])
value = 0
while True:
    value = (value + 1) % 256
    storage.write("value", bytes([value]) * 3_000_000)
    print("written", flush=True)
"""


def test_no_reader_ever_sees_a_torn_file_of_a_killed_writer(storage):
    kills_while_writing = 0
    for attempt in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, storage.uri()], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.003 * attempt)
        for _ in range(3):
            data = storage.read("value")
            assert len(data) == 3_000_000
            assert len(set(data)) == 1
        writer.kill()
        writer.communicate()
        data = storage.read("value")
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
        kills_while_writing += (storage.local_folder / (PENDING + "value")).exists() if attempt else 0
    assert kills_while_writing > 0, "no kill hit a write: the test shows nothing"
    storage.write("value", b"after")  # neither the lock nor the rest of the killed writers is in the way
    assert storage.read("value") == b"after"
    assert os.listdir(storage.uri()) == ["value"]


INCREMENT = """
import sys
from orchestrator.storage import Conflict, open_storage
storage = open_storage(sys.argv[1])
wins = 0
while wins < 50:
    data, version = storage.read_versioned("counter")
    try:
        storage.write_if("counter", str(int(data) + 1).encode(), match=version)
        wins += 1
    except Conflict:
        pass
"""


def test_racing_processes_lose_no_update(storage):
    storage.write("counter", b"0")
    racers = [subprocess.Popen([sys.executable, "-c", INCREMENT, storage.uri()]) for _ in range(3)]
    assert [racer.wait(60) for racer in racers] == [0, 0, 0]
    assert storage.read("counter") == b"150"


def test_threads_that_write_and_delete_the_same_folder_do_not_fail(storage):
    failures = []

    def repeat(action):
        try:
            for _ in range(60):
                action()
        except Exception as error:
            failures.append(error)

    actions = [
        lambda: storage.write("folder/key", b"1"),
        lambda: storage.delete_prefix("folder"),
        storage.list,
    ]
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_second_writer_waits_and_then_says_so(tmp_path):
    with (
        replacing(tmp_path / "key"),
        pytest.raises(TimeoutError, match="another process has been writing it"),
        replacing(tmp_path / "key", wait_s=0.1),
    ):
        pass


def test_a_failed_block_leaves_the_old_content_and_nothing_else(tmp_path):
    (tmp_path / "key").write_bytes(b"old")
    with contextlib.suppress(RuntimeError), replacing(tmp_path / "key") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "key").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["key"]


def test_a_file_beyond_the_limit_is_refused_and_leaves_the_old_one(storage):
    storage.write("key", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="larger than allowed here") as refused:
            storage.write("key", b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.uri("key") in str(refused.value)
    assert storage.read("key") == b"old"
    assert os.listdir(storage.uri()) == ["key"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB of its own; making one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root and `mount`")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_reported_and_leaves_the_old_content(small_disk, tmp_path):
    storage = open_storage(str(small_disk))
    storage.write("key", b"old")
    (tmp_path / "large").write_bytes(b"x" * 2_000_000)
    for write in (
        lambda: storage.write("key", b"x" * 2_000_000),
        lambda: storage.write_file("key", tmp_path / "large"),
        lambda: open_storage(str(tmp_path)).read_file("large", small_disk / "copy"),
    ):
        with pytest.raises(StorageError, match="the disk is full; free some space"):
            write()
    assert storage.read("key") == b"old"
    assert os.listdir(small_disk) == ["key"]
    assert 900_000 < storage.free_bytes() < 1_048_576
    storage.write("key", b"x" * 500_000)


def test_a_read_only_disk_is_reported(small_disk):
    storage = open_storage(str(small_disk))
    storage.write("key", b"old")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for change in (
        lambda: storage.write("key", b"new"),
        lambda: storage.delete("key"),
        lambda: storage.child("new").write("key", b"new"),
    ):
        with pytest.raises(StorageError, match="the file system is read-only; mount it writable"):
            change()
    assert storage.read("key") == b"old"


AS_ANOTHER_USER = """
import os, sys
from orchestrator.storage import StorageError, open_storage
storage = open_storage(sys.argv[1])
os.setuid(65534)
for attempt in (lambda: storage.write("key", b""), lambda: storage.read("key"), storage.list):
    try:
        attempt()
    except StorageError as error:
        print(error)
"""


def test_missing_permission_is_reported(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "key").write_bytes(b"")
    if os.geteuid() != 0:
        pytest.skip("taking another user's place needs root")
    folder.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, folder], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("permission denied; let this user read and write it") == 3


def test_a_file_in_the_place_of_a_folder_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        open_storage(str(tmp_path / "file")).write("key", b"")
    (tmp_path / "key").mkdir()
    with pytest.raises(StorageError, match="a folder stands where a file is needed"):
        open_storage(str(tmp_path)).write("key", b"")


def test_an_unknown_system_error_keeps_its_text(storage, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="Input/output error; check the disk"):
        storage.write("key", b"")

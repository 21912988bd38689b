import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

import pytest

from orchestrator.storage import StorageError, open_storage
from orchestrator.storage.atomic_files import PENDING, replacing


@pytest.fixture
def storage(tmp_path):
    """A folder only: what is tested here are the faults of disks."""
    return open_storage(str(tmp_path / "runs"))


WRITER = """
import sys
from pathlib import Path
from orchestrator.storage import open_storage
storage = open_storage(sys.argv[1])
value = 0
while True:
    value = (value + 1) % 256
    storage.write("value", bytes([value]) * 2_000_000)
    print("written", flush=True)
"""


def assert_whole(data):
    assert len(data) == 2_000_000
    assert len(set(data)) == 1


def test_no_reader_ever_sees_a_torn_file_of_a_killed_writer(storage):
    pending = storage.local_folder / (PENDING + "value")
    kills = kills_while_writing = 0
    while kills_while_writing < 3:
        assert kills < 100, f"only {kills_while_writing} of {kills} kills hit a write: the test shows nothing"
        writer = subprocess.Popen([sys.executable, "-c", WRITER, storage.uri()], stdout=subprocess.PIPE)
        writer.stdout.readline()
        for _ in range(kills % 5):
            assert_whole(storage.read("value"))
        writer.kill()
        writer.communicate()
        assert_whole(storage.read("value"))
        kills += 1
        kills_while_writing += pending.exists()
    storage.write("value", b"after")  # neither the lock nor the rest of the killed writers is in the way
    assert storage.read("value") == b"after"
    assert os.listdir(storage.uri()) == ["value"]


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


def test_deleting_a_folder_spares_the_file_that_is_being_written_and_takes_what_was_abandoned(storage):
    folder = storage.local_folder / "folder"
    storage.write("folder/old", b"")
    (folder / (PENDING + "abandoned")).write_bytes(b"half")
    with replacing(folder / "new") as file:
        storage.delete_prefix("folder")
        assert os.listdir(folder) == [PENDING + "new"]
        file.write(b"whole")
    assert storage.read("folder/new") == b"whole"
    storage.delete_prefix("folder")
    assert not folder.exists()


def test_deleting_a_folder_does_not_follow_links(storage, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_bytes(b"")
    storage.write("folder/key", b"")
    (storage.local_folder / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    storage.delete_prefix("folder")
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert not (storage.local_folder / "folder").exists()


@pytest.mark.parametrize("below", ["", "/runs/digits"])
def test_a_link_to_nowhere_is_one_line_and_not_waited_for(tmp_path, below):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    began = time.monotonic()  # what is waited for, is waited for 300 s
    with pytest.raises(StorageError, match=r"its folder cannot be made \(a link to nowhere"):
        open_storage(f"{tmp_path}/link{below}").write("key", b"")
    assert time.monotonic() - began < 150


def test_a_second_writer_waits_and_then_says_so(tmp_path):
    with (
        replacing(tmp_path / "key"),
        pytest.raises(TimeoutError, match=r"it has been locked by process \d+"),
        replacing(tmp_path / "key", wait_s=0.1),
    ):
        pass


def test_the_name_of_a_file_that_is_being_written_is_not_listed(storage):
    storage.write("key", b"")
    with replacing(storage.local_folder / "other"):
        assert storage.list() == ["key"]


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


def test_a_full_disk_is_reported_and_leaves_the_old_content(small_disk):
    storage = open_storage(str(small_disk))
    storage.write("key", b"old")
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        storage.write("key", b"x" * 2_000_000)
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
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="Value too large for defined data type; check the disk"):
        storage.write("key", b"")


# What Linux's manual pages of open, read, write, fsync, rename, mkdir, unlink and flock name, and network
# file systems add. Not here: EINTR (Python calls again), EAGAIN (of files that do not block), EEXIST and
# ENOTEMPTY (a race, which is tried again), EXDEV (both names are in one folder), EBADF and EFAULT (a fault
# of the program).
ERRORS_OF_FILES = """
EACCES EBUSY EDQUOT EFBIG EINVAL EIO EISDIR ELOOP EMFILE EMLINK ENAMETOOLONG ENFILE ENODEV ENOENT ENOLCK
ENOMEM ENOSPC ENOTDIR ENXIO EPERM EROFS ETXTBSY ENOSYS ENOTSUP ESTALE ETIMEDOUT ENOTCONN EHOSTDOWN
EHOSTUNREACH ECONNRESET EREMOTEIO EUCLEAN EBADMSG EILSEQ
"""


@pytest.mark.parametrize("name", [name for name in ERRORS_OF_FILES.split() if hasattr(errno, name)])
def test_every_error_of_a_file_system_says_what_to_do(storage, monkeypatch, name):
    number = getattr(errno, name)
    storage.write("value", b"before")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as failed:
        storage.write("value", b"after")
    text = str(failed.value)
    assert text.startswith(storage.uri("value"))
    assert "\n" not in text
    assert "check the disk" not in text  # what is said of errors that nobody foresaw
    assert storage.read("value") == b"before"

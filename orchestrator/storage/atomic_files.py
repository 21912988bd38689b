"""Replace a file atomically and durably, one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PENDING = ".pending-"
"""Begins the name of a file that is being written; it takes its final name when it is whole."""

_POLL_S = 0.01
_DELETED_S = 2.0
"""Longer than anybody takes to delete the folder in which a file is to be written, again and again."""


@contextmanager
def replacing(path: Path, *, wait_s: float = 300.0) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, or not at all if it raises.

    A reader sees the old or the new whole; once the block has ended the new one survives a power
    cut. Inside the block this process is the only writer of `path`, so that what it reads there
    still holds when its own content arrives. Missing folders are made.

    The pending file is also the lock: it is flock'ed, its name depends on `path` alone, and the
    system frees the lock of a killed writer. So there is neither a stale lock nor a heap of
    orphans: the next writer of `path` takes over the half-written file.

    Raises OSError; TimeoutError if another process has been writing `path` for `wait_s` seconds,
    FileNotFoundError if its folder cannot be made.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "folder" / "name"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_bytes()
    b'whole'
    """
    pending = path.with_name(PENDING + path.name)
    descriptor = _open_locked(pending, wait_s)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(descriptor)
            os.replace(pending, path)
        except BaseException:
            if _has_name(descriptor, pending):
                pending.unlink()  # give the space back: a full disk is the usual reason
            raise
        finally:
            # Closing is not enough: a process forked meanwhile holds the descriptor, and the lock, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    with suppress(FileNotFoundError):  # `delete_tree` was quicker
        _sync_folder(path.parent)


def delete_tree(folder: Path) -> None:
    """Remove all files below `folder`, and what folders are then empty; a file being written stays.

    Nobody but its writer may remove a pending file: the writer would give the name to whatever
    pending file of another writer had come in its place.
    """
    for here, subfolders, names in os.walk(folder, topdown=False, onerror=raise_unless_missing):
        for path in (Path(here, name) for name in names):
            if path.name.startswith(PENDING):
                _delete_abandoned(path)
            else:
                path.unlink(missing_ok=True)
        for path in (Path(here, name) for name in subfolders):
            if path.is_symlink():
                path.unlink(missing_ok=True)
        try:
            os.rmdir(here)
        except OSError as error:  # somebody writes here again, or has deleted it, too
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise


def raise_unless_missing(error: OSError) -> None:
    """For `os.walk`: a folder that goes away meanwhile is no error."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _delete_abandoned(pending: Path) -> None:
    try:
        descriptor = os.open(pending, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if _lock(descriptor) and _has_name(descriptor, pending):
            pending.unlink()
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _open_locked(pending: Path, wait_s: float) -> int:
    """Descriptor of `pending`, locked, and certainly the file that has that name now."""
    began = missing_since = time.monotonic()
    while True:
        try:
            _make_folder(pending.parent)
            descriptor = os.open(pending, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            missing_since = time.monotonic()
        except FileNotFoundError:  # somebody deletes the folder meanwhile, or it is not to be had
            if time.monotonic() - missing_since > _DELETED_S:
                raise
            descriptor = None
        if descriptor is not None:
            try:
                if _lock(descriptor) and _has_name(descriptor, pending):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        if time.monotonic() - began > wait_s:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has been writing it for {wait_s:g} s")
        time.sleep(_POLL_S)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_name(descriptor: int, path: Path) -> bool:
    """False if the writer before us has meanwhile renamed (or removed) the file that we opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _make_folder(folder: Path) -> None:
    """`mkdir -p`, each new folder's name made durable."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir() and folder.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    else:
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such call: nothing to add
            raise
    finally:
        os.close(descriptor)

"""Replace a file atomically and durably, one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PENDING = ".pending-"
"""Begins the name of a file that is being written; it takes its final name when it is whole."""

_POLL_S = 0.01


@contextmanager
def replacing(path: Path, *, wait_s: float = 300.0) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, or not at all if it raises.

    A reader sees the old or the new whole; once the block has ended the new one survives a power
    cut. Inside the block this process is the only writer of `path`, so that what it reads there
    still holds when its own content arrives. Missing folders are made.

    The pending file is also the lock: it is flock'ed, its name depends on `path` alone, and the
    system frees the lock of a killed writer. So there is neither a stale lock nor a heap of
    orphans: the next writer of `path` takes over the half-written file.

    Raises OSError; TimeoutError if another process has been writing `path` for `wait_s` seconds.

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
    _sync_folder(path.parent)


def _open_locked(pending: Path, wait_s: float) -> int:
    """Descriptor of `pending`, locked, and certainly the file that has that name now."""
    deadline = time.monotonic() + wait_s
    while True:
        _make_folder(pending.parent)
        try:
            descriptor = os.open(pending, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # somebody deleted the folder since the line before
            descriptor = None
        if descriptor is not None:
            try:
                if _lock(descriptor) and _has_name(descriptor, pending):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        if time.monotonic() > deadline:
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
        if not folder.is_dir():
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

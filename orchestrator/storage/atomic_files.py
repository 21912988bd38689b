"""Replace a file atomically and durably, one writer at a time; below a given folder no link is followed."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ekd_train.waiting import Wait, lock_holder

PENDING = ".pending-"
"""Begins the name of a file that is being written; it takes its final name when it is whole."""

_POLL_S = 0.01
_DELETED_S = 2.0
"""Longer than anybody takes to delete the folder in which a file is to be written, again and again."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
"""Flags that open a folder, but no link to one."""
_DEEPEST = 400
"""Levels of folders below the one to delete; each holds a descriptor open, and 1,024 are usual."""


@contextmanager
def replacing(path: Path, *, below: Path | None = None, wait_s: float = 300.0) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, or not at all if it raises.

    A reader sees the old or the new whole; once the block has ended the new one survives a power
    cut. Inside the block this process is the only writer of `path`, so that what it reads there
    still holds when its own content arrives. Missing folders are made.

    The pending file is also the lock: it is flock'ed, its name depends on `path` alone, and the
    system frees the lock of a killed writer. So there is neither a stale lock nor a heap of
    orphans: the next writer of `path` takes over the half-written file.

    `below`: a folder above `path`; no link between the two is followed. Default: the file's own folder.

    Raises OSError; TimeoutError if another process has been writing `path` for `wait_s` seconds,
    FileNotFoundError if its folder cannot be made.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "folder" / "name"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_bytes()
    b'whole'
    """
    pending, root = PENDING + path.name, below or path.parent
    folder, descriptor = _open_locked(root, path.parent.relative_to(root).parts, pending, wait_s)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            try:
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(descriptor)
                os.replace(pending, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                if _has_name(descriptor, pending, folder):
                    os.unlink(pending, dir_fd=folder)  # give the space back: a full disk is the usual reason
                raise
            finally:
                # Closing is not enough: a process forked meanwhile holds the descriptor, and the lock, too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        _sync(folder)
    finally:
        os.close(folder)


@contextmanager
def folder_below(root: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `root`/`parts`; a link among `parts` is an OSError (ELOOP).

    `make`: folders that are missing.
    """
    if make:
        _make_folder(root)
    descriptor = _open_folder(root, parts, make=make)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def delete_tree(root: Path, parts: Sequence[str]) -> None:
    """Remove all files below the folder `root`/`parts`, and what folders are then empty.

    A link is removed, not followed; one above that folder is an OSError. A file being written stays:
    nobody but its writer may remove a pending file, for the writer would give the name to whatever
    pending file of another writer had come in its place.
    """
    *above, name = parts
    with suppress(FileNotFoundError, NotADirectoryError), folder_below(root, above) as parent:
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            _delete(parent, name)


def _delete(parent: int, name: str, depth: int = 0) -> None:
    """Remove what has this name in the folder `parent`, be it a file, a link or a folder."""
    if depth > _DEEPEST:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            if name.startswith(PENDING):
                _delete_abandoned(parent, name)
            else:
                os.unlink(name, dir_fd=parent)
            return
        here = os.open(name, FOLDER, dir_fd=parent)
        try:
            for each in os.listdir(here):
                _delete(here, each, depth + 1)
        finally:
            os.close(here)
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:  # somebody writes here again
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _delete_abandoned(folder: int, pending: str) -> None:
    try:
        descriptor = os.open(pending, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        os.unlink(pending, dir_fd=folder)  # a link: no writer made it
        return
    try:
        if _lock(descriptor) and _has_name(descriptor, pending, folder):
            os.unlink(pending, dir_fd=folder)
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _open_locked(root: Path, parts: Sequence[str], pending: str, wait_s: float) -> tuple[int, int]:
    """Descriptors of the folder, which is made, and of `pending` in it: locked, and the file of that name."""
    missing_since = time.monotonic()
    number = 0
    wait = Wait(lambda: f"{root.joinpath(*parts, pending)}, locked by {lock_holder(number)}")
    while True:
        folder = descriptor = None
        locked = False
        try:
            _make_folder(root)
            folder = _open_folder(root, parts, make=True)
            descriptor = os.open(pending, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=folder)
            missing_since = time.monotonic()
            locked = _lock(descriptor) and _has_name(descriptor, pending, folder)
            if locked:
                return folder, descriptor
            number = os.fstat(descriptor).st_ino
        except FileNotFoundError:  # somebody deletes the folder meanwhile, or it is not to be had
            if time.monotonic() - missing_since > _DELETED_S:
                raise
        finally:
            for opened in (descriptor, folder) if not locked else ():
                if opened is not None:
                    os.close(opened)
        if wait.look() > wait_s:
            raise TimeoutError(
                errno.ETIMEDOUT, f"for {wait_s:g} s it has been locked by {lock_holder(number)}"
            )
        time.sleep(_POLL_S)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_name(descriptor: int, name: str, folder: int) -> bool:
    """False if the writer before us has meanwhile renamed (or removed) the file that we opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _open_folder(root: Path, parts: Sequence[str], *, make: bool = False) -> int:
    """A descriptor of `root`/`parts`; links above `root` are followed, others an OSError (ELOOP)."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for name in parts:
        try:
            below = _open_below(here, name, make)
        finally:
            os.close(here)
        here = below
    return here


def _open_below(folder: int, name: str, make: bool) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
        _sync(folder)  # the new folder's name is durable
    return _open_below(folder, name, make=False)


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
        with folder_below(folder.parent, ()) as parent:
            _sync(parent)


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such call: nothing to add
            raise

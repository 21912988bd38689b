"""Keys as files below a folder: on this host, or on a file system that all hosts mount."""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ekd_train.persistence.bounded_json import MOST_BYTES
from orchestrator.storage.atomic_files import FOLDER, delete_tree, folder_below, replacing
from orchestrator.storage.base import (
    Conflict,
    MissingKey,
    Storage,
    StorageError,
    Version,
    checked_size,
    is_key,
    validate_key,
)

_BY_NAME = {
    "ENOSPC": ("the disk is full", "free some space, or set storage.uri to a larger disk"),
    "EDQUOT": ("the disk quota is used up", "free some space, or set storage.uri elsewhere"),
    "EFBIG": ("the file is larger than allowed here", "raise the limit (`ulimit -f`)"),
    "EROFS": ("the file system is read-only", "mount it writable, or set storage.uri elsewhere"),
    "EACCES": ("permission denied", "let this user read and write it, or set storage.uri elsewhere"),
    "EPERM": ("the operation is not permitted", "let this user change it, or set storage.uri elsewhere"),
    "ENOENT": (
        "its folder cannot be made (a link to nowhere, or a file system that is not mounted)",
        "check that path, or set storage.uri elsewhere",
    ),
    "ENOTDIR": ("a file stands where a folder is needed", "move it away, or set storage.uri elsewhere"),
    "EISDIR": ("a folder stands where a file is needed", "move it away, or set storage.uri elsewhere"),
    "ENAMETOOLONG": ("a name in the path is too long", "choose a shorter storage.uri"),
    "ELOOP": (
        "a link stands below the storage's folder; none is followed there",
        "put what it names in its place, or set storage.uri to that",
    ),
    "ENOLCK ENOSYS ENOTSUP": (
        "the file system has no file locks",
        "mount it with locks (NFS 4; Lustre: -o flock)",
    ),
    "ESTALE ENOTCONN EHOSTDOWN EHOSTUNREACH ECONNRESET EREMOTEIO": (
        "the file server behind it has gone",
        "mount it again; the same command continues then",
    ),
    "EIO ENXIO ENODEV EUCLEAN EBADMSG": (
        "the disk does not read or write",
        "ask the system's log (`dmesg`), or set storage.uri elsewhere",
    ),
    "EMFILE ENFILE": ("too many files are open", "raise the limit (`ulimit -n`)"),
    "EINVAL EILSEQ": (
        "the file system refuses the name or the call",
        "set storage.uri to a folder of another file system",
    ),
    "EBUSY ETXTBSY": ("it is mounted or in use", "end what uses it, or set storage.uri elsewhere"),
    "EMLINK": ("its folder can hold no more", "set storage.uri to another folder"),
    "ENOMEM": ("this host has no memory left", "end other programs, or ask for more memory"),
    "ETIMEDOUT": ("it is locked or its file server does not answer", "end the other writer, then try again"),
}
"""What the errors of a file system mean, by their names, and what to do."""

_EXPLANATIONS = {
    getattr(errno, name): told
    for names, told in _BY_NAME.items()
    for name in names.split()
    if hasattr(errno, name)  # some are Linux's alone
}


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn an OSError into a `StorageError` about `uri`."""
    try:
        yield
    except OSError as error:
        problem, remedy = _EXPLANATIONS.get(
            error.errno or 0, (error.strerror or str(error), "check the disk, or set storage.uri elsewhere")
        )
        if isinstance(error, TimeoutError) and error.strerror != os.strerror(errno.ETIMEDOUT):
            problem = error.strerror or problem  # ours, which says by whom
        raise StorageError(uri, problem, remedy) from error


@dataclass(frozen=True)
class LocalStorage(Storage):
    """Files below `folder`, an absolute path; it is made by the first write.

    Whoever may write there could plant links that lead out: below `root` none is followed.
    """

    folder: Path
    root: Path = field(default=None, compare=False)  # type: ignore[assignment]
    """`folder` itself (the default), or the folder of the storage that this is a child of."""

    def __post_init__(self) -> None:
        if self.root is None:
            object.__setattr__(self, "root", self.folder)

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The bytes of an object."""
        with self._open(key) as file, explained(self.uri(key)):
            return file.read(checked_size(self.uri(key), os.fstat(file.fileno()).st_size, most_bytes))

    def read_versioned(self, key: str) -> tuple[bytes, Version]:
        """The version is a digest of the content."""
        data = self.read(key)
        return data, _version(data)

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        with explained(self.uri(key)), self._replacing(key) as file:
            file.write(data)

    def write_if(self, key: str, data: bytes, *, match: Version | None) -> Version:
        """Write an object if it is still the version `match`."""
        # `replacing` admits one writer at a time: nothing can change between the comparison and the write.
        with explained(self.uri(key)), self._replacing(key) as file:
            current = None
            with suppress(MissingKey):
                current = _version(self.read(key))
            if current != match:
                raise Conflict(self.uri(key))
            file.write(data)
        return _version(data)

    def list(self, prefix: str = "") -> list[str]:
        """Links, and files whose name is no key (`.pending-…`), are left out."""
        found: list[str] = []
        with (
            explained(self.uri(prefix)),
            suppress(FileNotFoundError, NotADirectoryError),
            folder_below(self.root, Path(self.uri(prefix)).relative_to(self.root).parts) as folder,
        ):
            found += _keys(folder, f"{prefix}/" if prefix else "")
        return sorted(found)

    def delete(self, key: str) -> None:
        """Remove an object; that there is none is no error."""
        *parts, name = self._parts(key)
        with (
            explained(self.uri(key)),
            suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            folder_below(self.root, parts) as folder,
        ):
            os.unlink(name, dir_fd=folder)

    def delete_prefix(self, prefix: str) -> None:
        """Files that killed writers left, links and empty folders go too."""
        parts = self._parts(prefix)
        with explained(self.uri(prefix)):
            delete_tree(self.root, parts)

    def age_s(self, key: str) -> float:
        """By the clock of the file system, which a new file shows; by this host's if none can be made."""
        with self._open(key) as file:
            written = os.fstat(file.fileno()).st_mtime
        try:
            with tempfile.TemporaryFile(dir=self._path(key).parent) as probe:
                return os.fstat(probe.fileno()).st_mtime - written
        except OSError:
            return time.time() - written

    def uri(self, key: str = "") -> str:
        """Where an object, or the storage itself, is."""
        return str(self._path(key) if key else self.folder)

    def child(self, prefix: str) -> "LocalStorage":
        """The storage below a prefix of this one."""
        return LocalStorage(self._path(prefix), self.root)

    @property
    def top(self) -> "LocalStorage":
        """The storage that this is a child of, or itself."""
        return LocalStorage(self.root)

    def free_bytes(self) -> int:
        """What an unprivileged user may use of the disk."""
        with explained(self.uri()):
            existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            return shutil.disk_usage(existing).free

    @property
    def local_folder(self) -> Path:
        """The folder on this machine; None: it is elsewhere."""
        return self.folder

    def _path(self, key: str) -> Path:
        return self.folder / validate_key(key)

    def _parts(self, key: str) -> tuple[str, ...]:
        """The names between `root` and the file of `key`."""
        return self._path(key).relative_to(self.root).parts

    def _replacing(self, key: str) -> AbstractContextManager[BinaryIO]:
        return replacing(self._path(key), below=self.root)

    def _open(self, key: str) -> BinaryIO:
        """The file of `key`, to be read. Raises `MissingKey` and `StorageError`."""
        *parts, name = self._parts(key)
        try:
            with explained(self.uri(key)):
                with folder_below(self.root, parts) as folder:
                    # A pipe would be waited for, for ever.
                    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                if stat.S_ISREG(os.fstat(opened).st_mode):
                    return os.fdopen(opened, "rb")
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise MissingKey(self.uri(key)) from None
            raise
        os.close(opened)
        raise MissingKey(self.uri(key))


def _keys(folder: int, prefix: str) -> Iterator[str]:
    """The keys below a folder: `prefix` and the names of its files; their length bounds how deep it is."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if is_key(prefix + entry.name)]
    for entry in found:
        if entry.is_file(follow_symlinks=False):
            yield prefix + entry.name
        elif entry.is_dir(follow_symlinks=False):
            try:
                below = os.open(entry.name, FOLDER, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):  # deleted or replaced meanwhile
                continue
            try:
                yield from _keys(below, f"{prefix}{entry.name}/")
            finally:
                os.close(below)


def _version(data: bytes) -> Version:
    return Version(hashlib.sha256(data).hexdigest())

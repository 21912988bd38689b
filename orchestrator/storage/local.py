"""Keys as files below a folder: on this host, or on a file system that all hosts mount."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage.atomic_files import delete_tree, raise_unless_missing, replacing
from orchestrator.storage.base import (
    Conflict,
    MissingKey,
    Storage,
    StorageError,
    Version,
    is_key,
    validate_key,
)

_COPY_BYTES = 4 << 20

_EXPLANATIONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or set storage.uri to a larger disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or set storage.uri elsewhere"),
    errno.EFBIG: ("the file is larger than allowed here", "raise the limit (`ulimit -f`)"),
    errno.EROFS: ("the file system is read-only", "mount it writable, or set storage.uri elsewhere"),
    errno.EACCES: ("permission denied", "let this user read and write it, or set storage.uri elsewhere"),
    errno.EPERM: ("the operation is not permitted", "let this user change it, or set storage.uri elsewhere"),
    errno.ENOENT: (
        "its folder cannot be made (a link to nowhere, or a file system that is not mounted)",
        "check that path, or set storage.uri elsewhere",
    ),
    errno.ENOTDIR: ("a file stands where a folder is needed", "move it away, or set storage.uri elsewhere"),
    errno.EISDIR: ("a folder stands where a file is needed", "move it away, or set storage.uri elsewhere"),
    errno.ENAMETOOLONG: ("a name in the path is too long", "choose a shorter storage.uri"),
    errno.ENOLCK: ("the file system has no file locks", "mount it with locks (NFS 4; Lustre: -o flock)"),
    errno.ENOSYS: ("the file system has no file locks", "mount it with locks (NFS 4; Lustre: -o flock)"),
    errno.ETIMEDOUT: (
        "it is locked or its file server does not answer",
        "end the other writer, then try again",
    ),
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
        raise StorageError(uri, problem, remedy) from error


@dataclass(frozen=True)
class LocalStorage(Storage):
    """Files below `folder`, an absolute path; it is made by the first write."""

    folder: Path

    def read(self, key: str) -> bytes:
        """See `Storage.read`."""
        with self._reading(key):
            return self._path(key).read_bytes()

    def read_versioned(self, key: str) -> tuple[bytes, Version]:
        """See `Storage.read_versioned`; the version is a digest of the content."""
        data = self.read(key)
        return data, _version(data)

    def write(self, key: str, data: bytes) -> None:
        """See `Storage.write`."""
        with explained(self.uri(key)), replacing(self._path(key)) as file:
            file.write(data)

    def write_if(self, key: str, data: bytes, *, match: Version | None) -> Version:
        """See `Storage.write_if`."""
        path = self._path(key)
        # `replacing` admits one writer at a time: nothing can change between the comparison and the write.
        with explained(self.uri(key)), replacing(path) as file:
            current = _version(path.read_bytes()) if path.exists() else None
            if current != match:
                raise Conflict(self.uri(key))
            file.write(data)
        return _version(data)

    def write_file(self, key: str, path: Path) -> None:
        """See `Storage.write_file`."""
        with open(path, "rb") as source, explained(self.uri(key)), replacing(self._path(key)) as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)

    def read_file(self, key: str, path: Path) -> None:
        """See `Storage.read_file`."""
        with self._reading(key):
            source = open(self._path(key), "rb")  # noqa: SIM115 (closed two lines below; errors differ)
        with source, explained(str(path)), replacing(path) as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        with explained(self.uri(key)):
            return self._path(key).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """See `Storage.list`; files whose name is no key (`.pending-…`) are left out."""
        keys = []
        with explained(self.uri(prefix)):
            for folder, subfolders, names in os.walk(self.uri(prefix), onerror=raise_unless_missing):
                subfolders[:] = [name for name in subfolders if is_key(name)]
                below = Path(folder).relative_to(self.folder)
                keys += [(below / name).as_posix() for name in names if is_key(name)]
        return sorted(keys)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        path = self._path(key)
        with explained(self.uri(key)):
            if path.is_file():
                path.unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """See `Storage.delete_prefix`; files that killed writers left, and the empty folders, go too."""
        path = self._path(prefix)
        with explained(self.uri(prefix)):
            delete_tree(path)

    def uri(self, key: str = "") -> str:
        """See `Storage.uri`."""
        return str(self._path(key) if key else self.folder)

    def child(self, prefix: str) -> LocalStorage:
        """See `Storage.child`."""
        return LocalStorage(self._path(prefix))

    def free_bytes(self) -> int:
        """See `Storage.free_bytes`; what an unprivileged user may use of the disk."""
        with explained(self.uri()):
            existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            return shutil.disk_usage(existing).free

    @property
    def local_folder(self) -> Path:
        """See `Storage.local_folder`."""
        return self.folder

    def _path(self, key: str) -> Path:
        return self.folder / validate_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        validate_key(key)
        try:
            with explained(self.uri(key)):
                yield
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                raise MissingKey(self.uri(key)) from None
            raise


def _version(data: bytes) -> Version:
    return Version(hashlib.sha256(data).hexdigest())

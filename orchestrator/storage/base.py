"""What every store offers: whole objects under keys, replaced atomically, with compare-and-swap.

A *key* is a relative POSIX path (`checkpoints/student/epoch-0004.safetensors`). A *prefix* is a
folder of keys: `checkpoints` holds `checkpoints/a` but neither `checkpoints` nor `checkpoints-2/a`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NewType

from ekd_train.persistence.bounded_json import MOST_BYTES
from orchestrator.errors import EkdError

Version = NewType("Version", str)
"""Stands for one content of one key; opaque: compare it only for equality."""

MAX_PART_BYTES = 200
"""A file name holds 255 bytes on every usual file system; some are ours (temporary files)."""
MAX_KEY_BYTES = 900
"""S3 allows 1,024 bytes, the storage's own prefix included."""


class StorageError(EkdError):
    """A store could not do what was asked; one line says where, what is wrong and what to do.

    >>> print(StorageError("s3://bucket/a", "the bucket does not exist", "create it"))
    s3://bucket/a: the bucket does not exist; create it
    """

    PROBLEM, REMEDY = "", ""
    """What a kind of error says unless it is told otherwise."""

    def __init__(self, uri: str, problem: str = "", remedy: str = "") -> None:
        super().__init__(uri, problem, remedy)  # all of them: exceptions travel pickled between workers
        self.uri, self.problem, self.remedy = uri, problem or self.PROBLEM, remedy or self.REMEDY

    def __str__(self) -> str:
        return f"{self.uri}: {self.problem}; {self.remedy}"


class MissingKey(StorageError, LookupError):
    """Nothing is stored under this key.

    Also a LookupError, which `ekd_train`, that may not import this module, can catch.
    """

    PROBLEM, REMEDY = "nothing is stored here", "check the name and the storage"


class Conflict(StorageError):
    """A conditional write lost: somebody else wrote first. What they wrote is untouched."""

    PROBLEM, REMEDY = "another process wrote it first", "read it again and decide anew"


class TooLarge(StorageError, ValueError):
    """An object larger than any that is written there; it was not read. A ValueError, as other damage."""

    PROBLEM = "larger than it may be"
    REMEDY = "restore the file, or delete it"


def checked_size(uri: str, size: int, most_bytes: int) -> int:
    """`size`, in bytes, of the object at `uri`; raises `TooLarge` if it is more than `most_bytes`."""
    if size > most_bytes:
        raise TooLarge(uri, f"{size} bytes, more than the {most_bytes} that it may have")
    return size


def validate_key(key: str) -> str:
    """Return `key` unchanged, or raise ValueError if it could name anything outside of the storage.

    Names that begin with a dot are refused: they are the stores' own (temporary files) and never listed.

    >>> validate_key("checkpoints/student/epoch-0004.safetensors")
    'checkpoints/student/epoch-0004.safetensors'
    >>> validate_key("../secret")
    Traceback (most recent call last):
    ValueError: storage key '../secret': no part may begin with a dot
    """
    if (problem := _problem(key)) is not None:
        raise ValueError(f"storage key {key!r}: {problem}")
    return key


def is_key(name: str) -> bool:
    """Whether `validate_key` accepts `name`: a store may hold other things, which are never listed."""
    return _problem(name) is None


def _problem(key: str) -> str | None:
    parts = key.split("/")
    if key.startswith("/"):
        return "it must be relative"
    if "" in parts:
        return "no part may be empty"
    if any(part.startswith(".") for part in parts):
        return "no part may begin with a dot"
    if "\\" in key or not key.isprintable():
        return "backslashes and unprintable characters are not allowed"
    if len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return f"at most {MAX_KEY_BYTES} bytes, and {MAX_PART_BYTES} between slashes"
    return None


class Storage(ABC):
    """A store of whole objects; `orchestrator.storage.open_storage` makes one from a URI.

    Instances are small values: they hold no open connection, can be pickled and sent to any
    worker, and compare equal when they name the same place. Every method raises ValueError for an
    invalid key (see `validate_key`) and `StorageError` when the store refuses, is full, or stays
    unreachable for longer than its patience.
    """

    @abstractmethod
    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The bytes under `key`. Raises `MissingKey`, and before it reads more than that `TooLarge`."""

    @abstractmethod
    def read_versioned(self, key: str) -> tuple[bytes, Version]:
        """The bytes and the version that `write_if` compares with. Raises `MissingKey` and `TooLarge`."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Store `data`. Readers see the old whole or the new whole; on return it survives a power cut."""

    @abstractmethod
    def write_if(self, key: str, data: bytes, *, match: Version | None) -> Version:
        """Store `data` only if `key` still has the version `match` (None: only if it is absent).

        Of several processes that try at once from the same version, exactly one succeeds; the
        others get `Conflict`. Returns the new version.
        """

    def exists(self, key: str) -> bool:
        """Whether something is stored under `key`: a small object, which is read."""
        try:
            self.read(key)
        except MissingKey:
            return False
        return True

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """All keys below the folder `prefix` ("": all), as whole keys, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`; doing it twice is no error."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Remove every key below the folder `prefix`, which may not be empty."""

    @abstractmethod
    def age_s(self, key: str) -> float:
        """Seconds since `key` was written, by the store's own clock: hosts' differ. Raises `MissingKey`."""

    @abstractmethod
    def uri(self, key: str = "") -> str:
        """Where `key` (or, for "", the storage itself) is: an absolute path or an s3:// URI."""

    @abstractmethod
    def child(self, prefix: str) -> "Storage":
        """The storage whose root is the folder `prefix` of this one."""

    @property
    @abstractmethod
    def top(self) -> "Storage":
        """The storage that was opened (`storage.uri`), of which this is a child; or itself."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Space left, in bytes, or None where there is no such limit."""

    @property
    @abstractmethod
    def local_folder(self) -> Path | None:
        """The folder that holds the keys as files, or None if they are not on a file system."""

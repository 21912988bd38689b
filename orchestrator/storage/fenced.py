"""A storage that only its present owner changes: reads pass, writes and deletions are checked first."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ekd_train.persistence.bounded_json import MOST_BYTES
from orchestrator.storage.base import Storage, Version


class Fence(Protocol):
    """Who may write; picklable, for workers on any host."""

    def check(self) -> None:
        """Raise if somebody else owns what is written."""


@dataclass(frozen=True)
class FencedStorage(Storage):
    """`inner`, and its children, changed only while `fence` lets it.

    Check and write are two requests: what was on its way when the process was stopped between the two still
    arrives, one object at most.
    """

    inner: Storage
    fence: Fence = field(compare=False)

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The bytes of an object."""
        return self.inner.read(key, most_bytes)

    def read_versioned(self, key: str) -> tuple[bytes, Version]:
        """The bytes and the version of an object."""
        return self.inner.read_versioned(key)

    def write(self, key: str, data: bytes) -> None:
        """Write an object, as its owner."""
        self.fence.check()
        self.inner.write(key, data)

    def write_if(self, key: str, data: bytes, *, match: Version | None) -> Version:
        """Write an object if it is still the version `match`, as its owner."""
        self.fence.check()
        return self.inner.write_if(key, data, match=match)

    def list(self, prefix: str = "") -> list[str]:
        """The keys below a prefix, sorted."""
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        """Remove an object, as its owner."""
        self.fence.check()
        self.inner.delete(key)

    def delete_prefix(self, prefix: str) -> None:
        """Remove all below a prefix, as its owner, who is looked up for each object."""
        for key in self.inner.list(prefix):
            self.delete(key)
        self.fence.check()
        self.inner.delete_prefix(prefix)

    def age_s(self, key: str) -> float:
        """Seconds since an object was written."""
        return self.inner.age_s(key)

    def uri(self, key: str = "") -> str:
        """Where an object, or the storage itself, is."""
        return self.inner.uri(key)

    def child(self, prefix: str) -> "FencedStorage":
        """The storage below a prefix of this one, behind the same fence."""
        return replace(self, inner=self.inner.child(prefix))

    @property
    def top(self) -> "FencedStorage":
        """The storage that this is a child of, behind the same fence."""
        return replace(self, inner=self.inner.top)

    def free_bytes(self) -> int | None:
        """Space left, if there is a limit."""
        return self.inner.free_bytes()

    @property
    def local_folder(self) -> Path | None:
        """The folder that holds the keys as files; None: they are not on a file system."""
        return self.inner.local_folder

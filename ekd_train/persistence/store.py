"""What checkpoints and networks need of a store; `orchestrator.storage` has such."""

from typing import Protocol

from ekd_train.persistence.bounded_json import MOST_BYTES


class Store(Protocol):
    """Where bytes are kept. `write` is atomic: a reader sees the old object or the new, whole."""

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The object at `key`; raises a `LookupError` if there is none, a `ValueError` for a larger one."""

    def write(self, key: str, data: bytes) -> None:
        """Store `data` at `key`, replacing what was there."""

    def list(self, prefix: str = "") -> list[str]:
        """The keys below the folder `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens if it is not there."""

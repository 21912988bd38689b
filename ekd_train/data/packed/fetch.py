"""Packed images on hosts that have not packed them: put into storage once, fetched once by each host."""

import re
from pathlib import Path
from typing import Protocol

from ekd_train.data.errors import DataError
from ekd_train.data.packed.index import INDEX, new_file
from ekd_train.data.user_cache import cache_folder, locked

FILE = re.compile(r"(shard-\d{5}\.array_record|names\.safetensors|index\.safetensors)")


MOST_SHARD_BYTES = 4 << 30
"""Of one file of a pack: 256 shards of ImageNet's training images have 0.6 GB each."""


class PackStore(Protocol):
    """Where packs are kept for all hosts: whole objects, as `ekd_train.persistence.checkpoint.Store`."""

    def read(self, key: str, most_bytes: int) -> bytes:
        """The object at `key`; raises a `ValueError` for a larger one."""

    def write(self, key: str, data: bytes) -> None:
        """Store `data` at `key`."""

    def list(self, prefix: str = "") -> list[str]:
        """The keys below the folder `prefix`."""


def put(folder: Path, store: PackStore) -> None:
    """Store the pack in `folder`, but for what is there; its index, which says that it is whole, last."""
    there = set(store.list(folder.name))
    for file in sorted(folder.iterdir(), key=lambda file: (file.name == INDEX, file.name)):
        key = f"{folder.name}/{file.name}"
        if FILE.fullmatch(file.name) and key not in there:
            store.write(key, file.read_bytes())


def fetch(name: str, store: PackStore) -> Path:
    """The pack `name` in this host's cache; of its processes one fetches it, and the others wait.

    Raises `DataError`: it is not in the store, or the disk is full.
    """
    folder = cache_folder("packed") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if (folder / INDEX).exists():
                return folder
            for left in folder.glob("*.pending"):  # of a process that was killed: nobody else writes here
                left.unlink(missing_ok=True)
            keys = [key for key in store.list(name) if FILE.fullmatch(key.removeprefix(f"{name}/"))]
            if f"{name}/{INDEX}" not in keys:
                raise DataError(folder, "is neither here nor in storage", "start the run again: it packs it")
            for key in sorted(keys, key=lambda key: key.endswith(INDEX)):
                file = folder / key.removeprefix(f"{name}/")
                if not file.exists():
                    with new_file(file) as pending:
                        pending.write_bytes(store.read(key, MOST_SHARD_BYTES))
    except OSError as error:
        raise DataError(
            folder, f"cannot be written ({error.strerror})", "free some space, or set XDG_CACHE_HOME"
        ) from error
    return folder

"""A round trip through a storage, to learn now what would otherwise stop a run in an hour."""

import uuid
from contextlib import suppress

from orchestrator.storage.base import Conflict, Storage, StorageError

_CONTENT = b"written by a check of this storage; safe to delete\n"
_GIB = 1 << 30


def check_storage(storage: Storage) -> str | None:
    """Write, read, list and delete as a run does; a warning where two drivers cannot be kept apart.

    What is written goes to a folder of its own, which is deleted in the end, after a failure too. Takes at
    most about twice the storage's patience when nothing answers. Raises `StorageError`.

    >>> import tempfile
    >>> from orchestrator.storage import open_storage
    >>> check_storage(open_storage(tempfile.mkdtemp()))
    """
    folder = f"preflight-{uuid.uuid4().hex}"
    probe = storage.child(folder)
    try:
        probe.write("content", _CONTENT)
        warning = _write_conditionally(probe)
        if probe.read("content") != _CONTENT:
            problem = "what was read is not what was written"
            raise StorageError(probe.uri("content"), problem, "check the disk or the store")
        if (found := probe.list()) != ["content", "owner"]:
            problem = f"the list is {found} just after content and owner were written"
            raise StorageError(probe.uri(), problem, "use another store")
        if probe.local_folder is None:
            from orchestrator.storage.s3 import MULTIPART_BYTES

            probe.write("in parts", bytes(MULTIPART_BYTES + 1))
    except BaseException:
        with suppress(StorageError):  # what failed before says more
            storage.delete_prefix(folder)
        raise
    storage.delete_prefix(folder)
    if left := storage.list(folder):
        problem = f"{left} are still there after deletion"
        raise StorageError(storage.uri(folder), problem, "delete them by hand")
    return warning


def check_room(storage: Storage, needs_bytes: int) -> None:
    """Raise `StorageError` where free space is limited and less than `needs_bytes`."""
    free = storage.free_bytes()
    if free is not None and free < needs_bytes:
        raise StorageError(
            storage.uri(),
            f"the disk is too full: {free / _GIB:.2f} GiB are free, {needs_bytes / _GIB:.2f} GiB are needed",
            "free some space, or set storage.uri to a larger disk",
        )


def _write_conditionally(probe: Storage) -> str | None:
    first = probe.write_if("owner", b"first", match=None)
    second = probe.write_if("owner", b"second", match=first)
    for stale in (None, first):
        with suppress(Conflict):
            probe.write_if("owner", b"third", match=stale)
            return (
                "this store ignores the condition of a conditional write: it cannot keep two drivers "
                "from owning the same run, so never start a run twice at the same time"
            )
    if probe.read_versioned("owner") != (b"second", second):
        raise StorageError(probe.uri("owner"), "a write that lost has changed it", "use another store")
    return None

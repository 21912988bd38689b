"""A round trip through a storage, to learn now what would otherwise stop a run in an hour."""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage.base import Conflict, Storage, StorageError

_CONTENT = b"written by a check of this storage; safe to delete\n"
_GIB = 1 << 30


@dataclass(frozen=True)
class Step:
    """One thing that was tried.

    `error` is set if it failed: a run cannot use the storage. `warning` is set if a run can, with
    the restriction that it names.
    """

    name: str
    seconds: float
    note: str = ""
    warning: str | None = None
    error: StorageError | None = None


def check(storage: Storage, *, needs_bytes: int = 0) -> list[Step]:
    """Try, in order, all that a run does with its storage, and end at the first failure.

    `needs_bytes`: what the run will store; where free space is limited, less than that fails. What
    is written goes to a folder of its own, which is deleted in the end, after a failure too.
    Takes at most about twice the storage's patience when nothing answers.

    >>> from orchestrator.storage import open_storage
    >>> [step.name for step in check(open_storage(tempfile.mkdtemp()))]
    ['free space', 'write', 'conditional write', 'read', 'list', 'delete']
    """
    folder = f"preflight-{uuid.uuid4().hex}"
    probe = storage.child(folder)
    steps: list[Step] = []
    try:
        for name, action in _actions(probe, needs_bytes):
            steps.append(_timed(name, action))
            if steps[-1].error is not None:
                return steps
        steps.append(_timed("delete", lambda: _delete(storage, folder)))
        return steps
    finally:
        if not steps or steps[-1].name != "delete":
            with suppress(StorageError):  # what failed before says more
                storage.delete_prefix(folder)


def _actions(probe: Storage, needs_bytes: int) -> Iterator[tuple[str, Callable[[], str]]]:
    if probe.local_folder is not None:
        yield "free space", lambda: check_room(probe, needs_bytes)
    yield "write", lambda: _write(probe)
    yield "conditional write", lambda: _conditional_write(probe)
    yield "read", lambda: _read(probe)
    yield "list", lambda: _list(probe)
    if probe.local_folder is None:
        yield "multipart", lambda: _multipart(probe)


class _RestrictionError(Exception):
    """It works, but not as it should."""


def _timed(name: str, action: Callable[[], str]) -> Step:
    start = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - start

    try:
        note = action()
    except StorageError as error:
        return Step(name, seconds(), error=error)
    except _RestrictionError as restriction:
        return Step(name, seconds(), warning=str(restriction))
    return Step(name, seconds(), note)


def check_room(storage: Storage, needs_bytes: int) -> str:
    """What is free, for a person. Raises `StorageError` where that is limited and less than `needs_bytes`."""
    free = storage.free_bytes()
    if free is None:
        return "unlimited"
    if free < needs_bytes:
        raise StorageError(
            storage.uri(),
            f"the disk is too full: {free / _GIB:.2f} GiB are free, {needs_bytes / _GIB:.2f} GiB are needed",
            "free some space, or set storage.uri to a larger disk",
        )
    return f"{free / _GIB:.1f} GiB"


def _write(probe: Storage) -> str:
    probe.write("content", _CONTENT)
    return f"{len(_CONTENT)} bytes"


def _conditional_write(probe: Storage) -> str:
    first = probe.write_if("owner", b"first", match=None)
    second = probe.write_if("owner", b"second", match=first)
    for stale in (None, first):
        with suppress(Conflict):
            probe.write_if("owner", b"third", match=stale)
            raise _RestrictionError(
                "this store ignores the condition of a conditional write: it cannot keep two drivers "
                "from owning the same run, so never start a run twice at the same time"
            )
    if probe.read_versioned("owner") != (b"second", second):
        raise StorageError(probe.uri("owner"), "a write that lost has changed it", "use another store")
    return "the loser is refused"


def _read(probe: Storage) -> str:
    if probe.read("content") != _CONTENT:
        raise StorageError(
            probe.uri("content"), "what was read is not what was written", "check the disk or the store"
        )
    return "as written"


def _list(probe: Storage) -> str:
    found = probe.list()
    if found != ["content", "owner"]:
        raise StorageError(
            probe.uri(), f"the list is {found} just after content and owner were written", "use another store"
        )
    return f"{len(found)} keys"


def _multipart(probe: Storage) -> str:
    from orchestrator.storage.s3 import MULTIPART_BYTES

    size = MULTIPART_BYTES + 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zeros"
        with open(path, "wb") as file:
            file.truncate(size)
        probe.write_file("large", path)
    return f"{size / (1 << 20):.0f} MiB"


def _delete(storage: Storage, folder: str) -> str:
    storage.delete_prefix(folder)
    left = storage.list(folder)
    if left:
        raise StorageError(
            storage.uri(folder), f"{left} are still there after deletion", "delete them by hand"
        )
    return "nothing left"

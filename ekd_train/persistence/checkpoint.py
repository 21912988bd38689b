"""Checkpoints that survive a crash in the middle of a write, and damage afterwards.

A checkpoint is two objects: tensors (`epoch-00012.safetensors`) and a record
(`epoch-00012.json`) that is written last, holds the tensors' SHA-256 and its own, and so
commits the pair. Nothing is ever unpickled. A checkpoint is written while training goes on.
"""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ekd_train.errors import EkdError
from ekd_train.persistence.bounded_json import MOST_BYTES, read_bounded_json
from ekd_train.persistence.bounded_tensors import parse_tensors, tensor_bytes
from ekd_train.persistence.records import (
    CheckpointRecord,
    NewerRecord,
    Record,
    StoredTensors,
    UnreadableRecord,
)
from ekd_train.persistence.store import Store

R = TypeVar("R", bound=Record)

logger = logging.getLogger(__name__)


class DamagedCheckpoint(EkdError, ValueError):
    """An object's bytes are not those that were written; the message names the object."""


@dataclass(frozen=True)
class Checkpoint:
    """Training state after `epoch` whole epochs and `step` steps, with the best weights so far."""

    epoch: int
    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]
    best: dict[str, Tensor]


Check = Callable[[Checkpoint], None]


def save_tensors(store: Store, key: str, tensors: Mapping[str, Tensor]) -> str:
    """Write `tensors` as one safetensors object; returns its SHA-256 in hexadecimal."""
    data, sha256 = tensor_bytes(tensors)
    store.write(key, data)
    return sha256


def save_hashed_tensors(store: Store, tensors: Mapping[str, Tensor]) -> str:
    """As `save_tensors`, under the hash's own name: `<SHA-256>.safetensors`."""
    data, sha256 = tensor_bytes(tensors)
    store.write(f"{sha256}.safetensors", data)
    return sha256


def load_tensors(store: Store, key: str, sha256: str, most_bytes: int) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote, in the room for it (`bounded_tensors.room_for`).

    Raises `DamagedCheckpoint` if it is larger, before it is read; if the hash is another, or it lies.
    """
    try:
        data = store.read(key, most_bytes)
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedCheckpoint(f"{key}: its bytes have changed since it was written (SHA-256 differs)")
    try:
        return parse_tensors(data)
    except Exception as error:  # whoever wrote it wrote its hash as well
        raise DamagedCheckpoint(f"{key}: not safetensors ({' '.join(str(error).split())[:200]})") from error


def save_record(store: Store, key: str, record: Mapping[str, Any]) -> None:
    """Write `record` as JSON together with a hash of itself."""
    store.write(key, _record_bytes(record))


def load_record(store: Store, key: str) -> dict[str, Any]:
    """Read what `save_record` wrote; raises `DamagedCheckpoint` if it was changed or cut."""
    try:
        data = store.read(key)
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from error
    try:
        document = read_bounded_json(data)
        record, sha256 = document["record"], document["sha256"]
        if not isinstance(record, dict):
            raise TypeError
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedCheckpoint(f"{key}: not a complete record ({type(error).__name__})") from error
    if _hash(record) != sha256:
        raise DamagedCheckpoint(f"{key}: its content has changed since it was written (SHA-256 differs)")
    return record


def load_typed(store: Store, key: str, kind: type[R]) -> R:
    """Read a record; raises `DamagedCheckpoint` if it is damaged or another, `NewerRecord` if it is newer."""
    content = load_record(store, key)
    try:
        return kind.parse(content, key)
    except UnreadableRecord as error:
        raise DamagedCheckpoint(str(error)) from error


class Checkpoints:
    """The checkpoints of one training run, below `prefix` of a store.

    `identity` is a fingerprint of everything that decides the run's result; a checkpoint that
    was made under another identity is never continued. The newest `keep` are kept.

    `save` copies what it is given and returns; a thread stores it, one checkpoint after the other. Whoever
    saves does so within `storing`, or calls `flush` before anyone relies on what was saved.
    """

    def __init__(self, store: Store, prefix: str, identity: str, keep: int = 2) -> None:
        self.store, self.prefix, self.identity, self.keep = store, prefix, identity, keep
        self._best: StoredTensors | None = None
        self._writing: Future[None] | None = None
        self._passed_over: set[str] = set()

    def save(
        self,
        epoch: int,
        tensors: Mapping[str, Tensor],
        record: Mapping[str, Any],
        best: tuple[int, Mapping[str, Tensor]] | None,
        step: int = 0,
    ) -> None:
        """Store the state after `epoch` epochs and `step` steps, then drop what no kept checkpoint needs.

        Waits for the checkpoint before it, and raises what storing that one raised.

        Args:
            epoch: whole epochs done.
            tensors: the state; it may change as soon as this returns.
            record: what is not a tensor; JSON.
            best: the best epoch so far, and its weights, which are written once.
            step: done of the next epoch.
        """
        self.flush()
        objects, stored = {}, self._best
        if best is not None:
            key = f"{self.prefix}/best-{best[0]:05d}.safetensors"
            if stored is None or stored.key != key:
                objects[key], sha256 = tensor_bytes(best[1])
                stored = StoredTensors(key=key, sha256=sha256)
        name = self.key(epoch, step)
        objects[f"{name}.safetensors"], sha256 = tensor_bytes(tensors)
        names, state, identity = tuple(sorted(tensors)), dict(record), self.identity
        document = CheckpointRecord(
            epoch=epoch, step=step, identity=identity, sha256=sha256, names=names, best=stored, state=state
        )
        objects[f"{name}.json"] = _record_bytes(document.model_dump())
        self._best, self._writing = stored, Future()
        # A daemon: a process that is told to end does not wait for a store that does not answer.
        work = threading.Thread(
            target=self._write, args=(objects, (epoch, step), self._writing), name="checkpoint", daemon=True
        )
        work.start()

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Within it checkpoints are saved; when it is left all are stored.

        What is raised within it stays what is raised, whatever becomes of the last checkpoint.
        """
        try:
            yield
        except BaseException:
            try:
                self.flush()
            except Exception as error:
                logger.warning("the checkpoint before this was not stored: %s", error)
            raise
        self.flush()

    def flush(self) -> None:
        """Wait until what was saved is stored. Raises what storing it raised."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except BaseException:
            self._best = None  # it may not be there
            raise

    def _write(self, objects: Mapping[str, bytes], at: tuple[int, int], done: Future[None]) -> None:
        try:
            for key, data in objects.items():
                self.store.write(key, data)
            self._prune(at)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def newest(self, check: Check = lambda _: None, most_bytes: int = MOST_BYTES) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are passed over with a warning, a newer one is not.

        `check` raises `ValueError` or `TypeError` for one that is not of this run, whatever its hashes say;
        one whose tensors take more than `most_bytes` is not read.
        """
        self.flush()
        there = [*self._keys("epoch"), *self._keys("best")]
        found = self._newest(_records(there), check, most_bytes)
        self._passed_over = {key for key in there if found is None or _at(key) > (found.epoch, found.step)}
        return found

    def _newest(self, records: list[str], check: Check, most_bytes: int) -> Checkpoint | None:
        for key in reversed(records):
            try:
                document = load_typed(self.store, key, CheckpointRecord)
                if document.identity != self.identity:
                    logger.warning("%s: made with other settings or data; not continued", key)
                    continue
                if (document.epoch, document.step) != _at(key):
                    raise DamagedCheckpoint(
                        f"it says that it is of epoch {document.epoch}, {document.step} steps"
                    )
                place = key.replace(".json", ".safetensors")
                tensors = load_tensors(self.store, place, document.sha256, most_bytes)
                if document.names not in (None, tuple(sorted(tensors))):  # an optimiser would miss its own
                    raise DamagedCheckpoint(f"{place}: its tensors are not those that the record names")
                best = document.best
                weights = load_tensors(self.store, best.key, best.sha256, most_bytes) if best else {}
                found = Checkpoint(document.epoch, document.step, tensors, document.state, weights)
                check(found)
            except NewerRecord:
                raise
            except (ValueError, LookupError, TypeError) as error:  # a record may hold anything
                logger.warning("%s: %s; falling back to the checkpoint before it", key, error)
                continue
            self._best = best
            return found
        return None

    def key(self, epoch: int, step: int = 0) -> str:
        """Where the checkpoint after `epoch` epochs and `step` steps is stored, without its suffixes."""
        return f"{self.prefix}/epoch-{epoch:05d}" + (f"_{step:07d}" if step else "")

    def _keys(self, start: str) -> list[str]:
        ours = re.compile(rf"{re.escape(self.prefix)}/{start}-[0-9]+(_[0-9]+)?\.(json|safetensors)")
        return [key for key in self.store.list(self.prefix) if ours.fullmatch(key)]

    def _prune(self, newest: tuple[int, int]) -> None:
        """Drop what the newest `keep` up to epoch and step `newest` replace, and what was passed over.

        Any other that is later is none of ours: another process trains the same run, to which this one
        has lost it without knowing yet, and is ahead.
        """

        def ours(start: str) -> list[str]:
            return [key for key in self._keys(start) if _at(key) <= newest or key in self._passed_over]

        there = ours("epoch")
        kept = [key for key in _records(there) if _at(key) <= newest][-self.keep :]
        for key in there:
            if key.replace(".safetensors", ".json") not in kept:
                self.store.delete(key)
        try:
            bests = [load_typed(self.store, key, CheckpointRecord).best for key in kept]
        except (DamagedCheckpoint, LookupError):
            return  # what a damaged record needs is unknown, so everything stays
        needed = {best.key for best in bests if best}
        for key in set(ours("best")) - needed:
            self.store.delete(key)
        self._passed_over = set()


def _records(keys: list[str]) -> list[str]:
    return sorted((key for key in keys if key.endswith(".json")), key=_at)


def _at(key: str) -> tuple[int, int]:
    """Epochs and steps done."""
    epoch, _, step = key.rpartition("-")[2].partition(".")[0].partition("_")
    return int(epoch), int(step or 0)


def _record_bytes(record: Mapping[str, Any]) -> bytes:
    return json.dumps({"record": record, "sha256": _hash(record)}, indent=1).encode()


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

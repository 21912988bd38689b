"""Writes that wait for the tracking store, in a journal that survives the process.

A record is appended to the journal when it is put and leaves it when it is delivered, so
neither a dead server nor `kill -9` loses one. While the journal's disk is full, records wait in
memory alone: a full disk must not end a training that needs none. After a crash between the two
a record is delivered again: delivery must therefore be idempotent (`writer.py` says how it is).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from orchestrator.tracking.records import Artifact, Metrics, Record, from_line, to_line

log = logging.getLogger(__name__)

VALUES_PER_CALL = 1000
"""MLflow's limit on the metrics of one `log_batch`."""


class Outcome(Enum):
    """What became of a delivery."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """For good: the same record would be refused again."""
    UNREACHABLE = "unreachable"
    """For now: worth another try."""


class _Patience:
    """When to try again: after 5 s, then after twice as long each time, up to 2 minutes."""

    FIRST_S = 5.0
    LAST_S = 120.0

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._until = 0.0

    def postpone(self, now: float) -> None:
        self.delay_s = min(max(self.FIRST_S, 2 * self.delay_s), self.LAST_S)
        self._until = now + self.delay_s

    def reset(self) -> None:
        self.delay_s = 0.0

    def over(self, now: float) -> bool:
        return self.delay_s == 0 or now >= self._until


class Outbox:
    """A queue in front of `deliver`, written through to `folder`.

    Args:
        deliver: writes records of one call; it never raises. Several records come together
            only when all are `Metrics` of one run, at most 1,000 values in all.
        folder: holds `pending.jsonl`, `refused.jsonl` and the files of artifacts.
        flush_every_s: age at which waiting records are delivered by the next `put`.
        flush_values: number of waiting metric values at which they are.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[Record]], Outcome],
        folder: Path,
        *,
        flush_every_s: float = 5.0,
        flush_values: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = folder / "pending.jsonl"
        self.refusals = folder / "refused.jsonl"
        self._deliver = deliver
        self._flush_every_s = flush_every_s
        self._flush_values = flush_values
        self._clock = clock
        self._lock = threading.RLock()
        self._queue: list[Record] = _read(self.journal)
        self._waiting_values = 0
        self._oldest: float | None = None
        self._in_memory_alone = False
        # Artifacts may lie in another place than the rest (S3), which is down on its own.
        self._patience = {False: _Patience(), True: _Patience()}

    @property
    def pending(self) -> int:
        """Records that are not in the store yet."""
        return len(self._queue)

    @property
    def journalled(self) -> bool:
        """Whether what is pending survives this process; not while the journal's disk is full."""
        return not self._in_memory_alone

    @property
    def offline(self) -> bool:
        """Whether the last delivery found the store (not just that of the artifacts) unreachable."""
        return self._patience[False].delay_s > 0

    def put(self, record: Record) -> None:
        """Keep `record`; deliver what waits if it is much, old, or not just metrics."""
        with self._lock:
            self._queue.append(record)
            self._append(record)
            if self._oldest is None:
                self._oldest = self._clock()
            if isinstance(record, Metrics):
                self._waiting_values += len(record.values)
            if (
                not isinstance(record, Metrics)
                or self._waiting_values >= self._flush_values
                or self._clock() - self._oldest >= self._flush_every_s
            ):
                self.flush()

    def flush(self, *, force: bool = False) -> bool:
        """Deliver in order until the queue is empty or the store is unreachable; artifacts last.

        While the store is unreachable nothing is tried before a delay that doubles from 5 s
        to 2 minutes, so that a dead server costs training next to nothing; `force` tries now.

        Returns:
            Whether nothing is pending any more.
        """
        with self._lock:
            before = len(self._queue)
            for artifacts in (False, True):
                if not self._flush_kind(artifacts, force):
                    break
            self._waiting_values = 0
            self._oldest = None
            if len(self._queue) < before or self._in_memory_alone:
                self._rewrite()
            return not self._queue

    def _append(self, record: Record) -> None:
        if self._in_memory_alone:
            return  # the journal may end in half a line: it is written anew, or not at all
        try:
            with self.journal.open("a") as journal:
                journal.write(to_line(record))
        except OSError as error:
            self._in_memory_alone = True
            log.warning("%s cannot be written (%s); what waits is in memory alone", self.journal, error)

    def _rewrite(self) -> None:
        """The journal as the queue is now. An old one may stay: delivering its records again is harmless."""
        try:
            _rewrite(self.journal, self._queue)
            self._in_memory_alone = False
        except OSError as error:
            if not self._in_memory_alone:
                log.warning("%s cannot be written (%s)", self.journal, error)
            self._in_memory_alone = True

    def _flush_kind(self, artifacts: bool, force: bool) -> bool:
        """Deliver all artifacts or everything else; whether none of them is left."""
        patience = self._patience[artifacts]
        while waiting := [record for record in self._queue if isinstance(record, Artifact) == artifacts]:
            if not force and not patience.over(self._clock()):
                return False
            batch = _next_batch(waiting)
            outcome = self._deliver(batch)
            if outcome is Outcome.UNREACHABLE:
                if patience.delay_s == 0:
                    log.warning("the tracking store is unreachable; writes wait in %s", self.journal)
                patience.postpone(self._clock())
                return False
            patience.reset()
            if outcome is Outcome.REFUSED:
                with suppress(OSError), self.refusals.open("a") as refusals:
                    refusals.writelines(map(to_line, batch))
            chosen = {id(record) for record in batch}
            self._queue = [record for record in self._queue if id(record) not in chosen]
            for record in batch:
                if isinstance(record, Artifact):
                    _forget(Path(record.file))
        return True


def _next_batch(queue: Sequence[Record]) -> list[Record]:
    """The first record; if it holds metrics, with it those of the same run before any other kind."""
    first = queue[0]
    if not isinstance(first, Metrics):
        return [first]
    batch: list[Record] = []
    values = 0
    for record in queue:
        if not isinstance(record, Metrics):
            break
        if record.run != first.run:
            continue
        if batch and values + len(record.values) > VALUES_PER_CALL:
            break
        batch.append(record)
        values += len(record.values)
    return batch


def _read(journal: Path) -> list[Record]:
    """The records of an earlier process; a line that its end cut short is removed."""
    if not journal.exists():
        return []
    records: list[Record] = []
    damaged = False
    for line in journal.read_text().splitlines():
        try:
            records.append(from_line(line))
        except ValueError as error:
            log.warning("%s: %s; left out", journal, error)
            damaged = True
    if damaged:  # else the next line would be appended to what is left of this one
        _rewrite(journal, records)
    return records


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)
    with suppress(OSError):
        file.parent.rmdir()  # each artifact waits in a folder of its own, under its own name


def _rewrite(journal: Path, records: Sequence[Record]) -> None:
    if not records:
        journal.unlink(missing_ok=True)
        return
    new = journal.with_suffix(".new")
    new.write_text("".join(map(to_line, records)))
    os.replace(new, journal)

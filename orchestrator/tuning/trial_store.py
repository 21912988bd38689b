"""What is known of every trial, in the run's storage: enough to go on after `kill -9`.

`trials/<name>/trial.json` is written when a trial is proposed and again when it has ended, with
all that it reported. Between the two its checkpoints hold the same records, so nothing else
needs to be kept while it trains.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from ekd_train.persistence.records import Record
from orchestrator.pipeline.manifest import read_record
from orchestrator.storage import Storage

TrialStatus = Literal["proposed", "completed", "pruned", "failed", "out_of_time"]

ENDED = ("completed", "pruned", "failed")
"""What another start of the search keeps as it is; the rest goes on."""


class TrialRecord(Record):
    """One trial: what was tried and what came of it."""

    WHAT = "the record of a trial"

    number: int
    values: dict[str, Any]
    """Dotted experiment keys and their values."""
    baseline: bool = False
    """The experiment as it stands, with which the others are compared."""
    full_cost: Annotated[float, Field(validation_alias=AliasChoices("full_cost", "cost"))] = 0.0
    """Forward-pass equivalents of a whole training, for each image of the training split and seed, by which
    trials are compared; `cost` in records of earlier versions."""
    planned_epochs: int | None = None
    """Of a whole training; None: of an earlier version."""
    status: TrialStatus = "proposed"
    history: tuple[dict[str, float], ...] = ()
    """What was reported, by validated epoch (`ekd_train.workers.trial_runner.TrialRunner.step`)."""
    error: str | None = None
    seconds: float = 0.0
    """Of training and validation, of all seeds and all starts together; none of what is reused."""
    seeds: int = 1
    """Networks trained of it."""
    reused_from: tuple[str, ...] = ()
    """Of each network that this trial did not train itself the run, and after a slash the trial, that did."""
    ended_at: float | None = None
    """In seconds since 1970."""

    @property
    def name(self) -> str:
        """Unique in the search, in order."""
        return trial_name(self.number)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.status in ENDED

    @property
    def reused(self) -> bool:
        """Whether every network was there before, so that nothing was trained for it."""
        return len(self.reused_from) >= self.seeds

    @property
    def last(self) -> dict[str, float]:
        """The newest record; empty before the first."""
        return self.history[-1] if self.history else {}

    @property
    def epochs(self) -> int:
        """Epochs trained, as far as reported."""
        return int(self.last.get("epoch", 0))

    @property
    def cost(self) -> float | None:
        """What of `full_cost` was spent: on the epochs trained, of networks that were not reused.

        None where a version that noted no planned epochs has stopped it.
        """
        if self.planned_epochs is None:
            return self.full_cost if self.status == "completed" else None
        trained = 1 - min(1.0, len(self.reused_from) / self.seeds)
        return self.full_cost * trained * self.epochs / self.planned_epochs

    @property
    def quality(self) -> tuple[float, float]:
        """Higher is better: mean validation accuracy over the seeds, then lower mean NLL."""
        return self.last.get("score", -1.0), -self.last.get("score_nll", float("inf"))


def trial_name(number: int) -> str:
    """The name of a trial.

    >>> trial_name(7)
    'trial-0007'
    """
    return f"trial-{number:04d}"


class TrialStore:
    """The trials of one search; only the driver writes it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.trials: dict[int, TrialRecord] = {}
        for key in storage.list("trials"):
            if re.fullmatch(r"trials/trial-\d+/trial\.json", key):
                record = read_record(storage, key, TrialRecord)
                if record is not None:
                    self.trials[record.number] = record

    def add(self, number: int, values: Mapping[str, Any], full_cost: float, **fields: Any) -> TrialRecord:
        """Note that a trial is to be run; its record, with other `fields` of it."""
        known = {"number": number, "values": dict(values), "full_cost": full_cost}
        record = self.change(TrialRecord.model_validate(known | fields))
        self._save(record)
        return record

    def change(self, record: TrialRecord, **changes: Any) -> TrialRecord:
        """What is known of a trial while it trains; it is stored when it ends."""
        self.trials[record.number] = record = record.model_copy(update=changes)
        return record

    def end(self, record: TrialRecord, status: TrialStatus, **changes: Any) -> TrialRecord:
        """Note how a trial ended; checkpoints that nothing can need any more are removed."""
        record = self.change(record, status=status, **changes)
        self._save(record)
        if status in ("pruned", "failed"):
            self.forget_checkpoints(record)
        return record

    def _save(self, record: TrialRecord) -> None:
        self.storage.write(_key(record.number), json.dumps(record.model_dump(mode="json")).encode())

    def forget_checkpoints(self, record: TrialRecord) -> None:
        """Remove a trial's checkpoints."""
        for key in self.storage.list(f"trials/{record.name}"):
            if key != _key(record.number):
                self.storage.delete(key)


def find_trial(storage: Storage, number: int) -> TrialRecord | None:
    """What is known of one trial."""
    return read_record(storage, _key(number), TrialRecord)


def best_trial(trials: Mapping[int, TrialRecord]) -> TrialRecord | None:
    """The trial whose mean validation accuracy is highest; of equals the lower NLL, then the earlier one.

    One that was trained in full, if any was: what the others would reach is not known.
    """
    scored = [record for record in trials.values() if record.history]
    whole = [record for record in scored if record.status == "completed"]
    return max(whole or scored, key=lambda record: (*record.quality, -record.number), default=None)


def pareto_set(trials: Mapping[int, TrialRecord]) -> list[TrialRecord]:
    """Completed trials than which no other is both cheaper and better, cheapest first."""
    done = sorted(
        (record for record in trials.values() if record.status == "completed"),
        key=lambda record: (record.full_cost, -record.quality[0], record.number),
    )
    front: list[TrialRecord] = []
    for record in done:
        if not front or record.quality[0] > front[-1].quality[0]:
            front.append(record)
    return front


def _key(number: int) -> str:
    return f"trials/{trial_name(number)}/trial.json"

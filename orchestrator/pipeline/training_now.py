"""What is training now, in the run's storage while its driver lives: for `ekd status`."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.persistence.records import Record
from orchestrator.errors import EkdError
from orchestrator.pipeline.estimate import Training
from orchestrator.storage import MissingKey, Storage, StorageError

KEY = "training.json"
EVERY_S = 10.0
"""How old what is stored is at most."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TrainingNow(BaseModel):
    """How far one training run is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int
    epochs: int
    step: int | None = None
    """The last that was reported; None: none yet in this start."""
    steps: int | None = None
    silent_s: Seconds
    """How long ago that was when it was stored."""


class AllTraining(Record):
    """Every training run in progress, by name."""

    WHAT = "what a run trains"

    runs: dict[str, TrainingNow]


class Noter:
    """Keeps `training.json` about as new as `EVERY_S`; a store that is away is no reason to stop."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._noted = float("-inf")

    def note(self, trainings: Mapping[str, Training]) -> None:
        """Store what is training, unless that was done just now."""
        now = time.monotonic()
        if now - self._noted < EVERY_S:
            return
        self._noted = now
        runs = {
            run.name: TrainingNow(
                epoch=run.epoch,
                epochs=run.epochs,
                step=run.step,
                steps=run.steps,
                silent_s=max(0.0, now - run.seen),
            )
            for run in trainings.values()
            if run.status == "training"
        }
        with suppress(StorageError):
            self._storage.write(KEY, AllTraining(runs=runs).model_dump_json().encode())

    def forget(self) -> None:
        """Nothing is training any more."""
        with suppress(EkdError):  # nor, perhaps, is the run ours any more
            self._storage.delete(KEY)


def read_training(run: Storage) -> dict[str, str]:
    """What a run whose driver lives trains, in words, by name; nothing of what this version cannot read."""
    with suppress(MissingKey, ValueError):
        age_s = run.age_s(KEY)  # by the store's clock: the driver's may be another
        found = AllTraining.parse(read_bounded_json(run.read(KEY)), run.uri(KEY))
        return {name: in_words(training, age_s) for name, training in found.runs.items()}
    return {}


def in_words(training: TrainingNow, age_s: float) -> str:
    """How far a training run is, and how long ago.

    >>> in_words(TrainingNow(epoch=3, epochs=10, step=120, steps=400, silent_s=2), 5)
    'training: step 120 of 400 in epoch 3 of 10, 7 s ago'
    """
    at = f"step {training.step} of {training.steps} in " if training.step is not None else ""
    return (
        f"training: {at}epoch {training.epoch} of {training.epochs}, "
        f"{training.silent_s + max(0.0, age_s):.0f} s ago"
    )

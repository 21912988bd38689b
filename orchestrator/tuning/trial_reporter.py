"""What a trial's process says of itself: signs of life, how far it is, and what a person should see.

Nothing of torch is imported: the queue that it is said to reads it.
"""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from ekd_train.workers.sign import EVERY_S, Heart, Sign
from orchestrator.runtime.event import Advanced, Warned


@dataclass(frozen=True)
class TrialSign(Sign):
    """Of a trial's process; `run` is the trial, and `rank` tells its process from every other."""

    def __str__(self) -> str:
        return f"its process ({self.pid} on {self.host})"


class TrialReporter:
    """A trial's side of a `JobQueue` that gives out no jobs; an `ekd_train.training.reporter.Reporter`.

    Epochs are not told: Tune does that. Without a queue nothing is.
    """

    def __init__(self, queue: Any = None, every_s: float = EVERY_S) -> None:
        self.queue, self.every_s = queue, every_s
        self._trial, self._here = "", True
        self._heart: Heart | None = None

    def attend(self, trial: str, *, here: bool = True) -> None:
        """Give signs of life from here on. `here`: trials train in this process, and not in a worker pool,
        which watches over its own workers."""
        self._here = here
        if self.queue is not None:
            me = ray.get_runtime_context()
            rank = int(me.get_worker_id(), 16)
            sign = TrialSign(rank, socket.gethostname(), os.getpid(), me.current_actor)
            self._heart = Heart(sign, self._give, self.every_s)
        self.about(trial)
        if self._heart is not None:
            self._heart.start()

    def about(self, trial: str) -> None:
        """What is told from here on is of `trial`; the driver knows before anything is done for it."""
        self._trial = trial
        if self._heart is not None:
            self._heart.about(trial, first=self._here)
            self._heart.beat()  # else a process that stops soon is taken for that of the trial before

    def started(self, epoch: int, steps: int) -> None:
        """Nothing: the driver knows."""

    def progress(self, epoch: int, step: int, steps: int, loss: float, images_per_s: float) -> None:
        """How far the trial is; not waited for."""
        data = {"epoch": epoch, "step": step, "steps": steps, "loss": loss, "images_per_s": images_per_s}
        self._report(Advanced(run=self._trial, **data))

    def stepped(self, step: int | None) -> None:
        """For the signs of life."""
        if self._heart is not None:
            self._heart.at(step)

    def epoch(self, record: dict[str, float]) -> None:
        """Nothing: Tune reports it."""

    def warning(self, message: str) -> None:
        """Something a person should see."""
        self._report(Warned(run=self._trial, message=message))

    def _report(self, event: Advanced | Warned) -> None:
        if self.queue is not None:
            self.queue.report.remote(event)

    def _give(self, sign: Sign) -> None:
        # The trial needs nothing of the queue: where it is away, or another takes its place, it trains on.
        with suppress(RayError):
            ray.get(self.queue.sign.remote(sign), timeout=EVERY_S)

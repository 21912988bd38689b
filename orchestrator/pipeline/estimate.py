"""How long training will still take: from the work that is left and how much of it goes on at once."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

OWN_PACE_AT = 0.5
"""Share of a training run from which its own pace alone counts; its first steps tell little of the others."""


@dataclass
class Training:
    """One training run or trial, as far as it is known to the driver; moments are seconds of one clock."""

    name: str
    epochs: int
    effort: float
    """Of the whole, relative to the others (`orchestrator.planning.effort`)."""
    needs: tuple[str, ...] = ()
    """Names of those that it starts from."""
    until: float = 1.0
    """The fraction at which it is expected to end: a trial may be stopped."""
    trial: bool = False
    """Trials have a pace of their own: they store and report every validated epoch."""
    status: Literal["waiting", "training", "done"] = "waiting"
    epoch: int = 0
    step: int | None = None
    """The last of `steps` that was reported; None: none in this start."""
    steps: int | None = None
    fraction: float = 0.0
    loss: float | None = None
    accuracy: float | None = None
    images_per_s: float | None = None
    began: float = 0.0
    """When the pace was first known to count: of a trial at its first progress, as its process has to start
    before; 0: not yet."""
    began_fraction: float = 0.0
    """What was trained by then."""
    seen: float = 0.0
    """When `fraction` was reached."""

    @property
    def gained(self) -> float:
        """The fraction trained in this start."""
        return self.fraction - self.began_fraction if self.began else 0.0

    def seconds_left(self, now: float, pace: float | None) -> float | None:
        """At its own pace and, the less it has trained, at `pace`, seconds an effort; None without both."""
        if self.status == "done" or not self.effort:
            return 0.0
        if self.gained <= 0 and pace is None:
            return None
        share = min(1.0, self.gained / OWN_PACE_AT)
        own = (self.seen - self.began) / self.gained if self.gained > 0 else 0.0
        whole = own if pace is None else share * own + (1 - share) * pace * self.effort
        left = whole * max(0.0, self.until - self.fraction)
        return max(0.0, left - (now - self.seen if self.status == "training" and self.began else 0.0))


def pace(trainings: Iterable[Training], like: Training) -> float | None:
    """Seconds that one effort took in this start, of such as `like`; None before one has begun.

    Of a trial nothing is said by others: how long it takes to store and report an epoch is not known of them.
    """
    begun = [training for training in trainings if training.gained > 0]
    begun = [training for training in begun if training.trial == like.trial] or ([] if like.trial else begun)
    done = sum(training.effort * training.gained for training in begun)
    return sum(training.seen - training.began for training in begun) / done if done else None


def seconds_left(trainings: Iterable[Training], at_once: int, now: float) -> float | None:
    """Until all have ended, if the next begins whenever one of `at_once` ends; None before a pace is known.

    They are given in the order in which they will begin: what one needs comes before it.
    """
    known = sorted(trainings, key=lambda training: training.status == "waiting")
    free, ends = [0.0] * at_once, {"": 0.0}
    for training in known:
        left = training.seconds_left(now, pace(known, training))
        if left is None:
            return None
        if training.status != "done":
            begins = max(heapq.heappop(free), *(ends.get(name, 0.0) for name in ("", *training.needs)))
            ends[training.name] = begins + left
            heapq.heappush(free, begins + left)
    return max(ends.values())

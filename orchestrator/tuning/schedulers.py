"""When trials are stopped: rungs, what they are expected to save, and Ray's schedulers by name."""

import bisect
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.experiment.schema import Experiment
from orchestrator.tuning.names import SchedulerName, SearcherName
from orchestrator.tuning.request import SearchRequest, longest_training, longest_warmup

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

TIME, SCORE = "epoch", "score"
"""Names, in what a trial reports, of its epochs and of what is compared."""
HANDFUL = 5
"""So many trials are to train in full, about: among fewer, which is best is chance."""


@dataclass(frozen=True)
class Stopping:
    """Which trials of a search are stopped, and when; trial 0, which the others are compared with, never."""

    scheduler: SchedulerName
    trials: int
    longest: int
    """Epochs of the longest trial."""
    grace: int
    """Epochs before any trial may be stopped."""
    factor: float
    """About one trial in so many goes on at every rung."""

    @property
    def rungs(self) -> list[float]:
        """Epochs after which trials are compared, before the last one.

        >>> Stopping("asha", 45, 10, 2, 3.0).rungs
        [2.0, 6.0]
        """
        if self.scheduler == "none" or self.grace >= self.longest:
            return []
        if self.scheduler == "median":
            return [float(self.grace)]
        count = int(math.log(self.longest / self.grace) / math.log(self.factor) + 1)
        return [epoch for k in range(count) if (epoch := self.grace * self.factor**k) < self.longest]

    def expected(self, simulations: int = 200) -> tuple[float, float]:
        """Share of the epochs of running all trials in full, and number of trials that are trained in full.

        Trials arrive one after another, each with a random rank that is the same at every rung: the
        most that early stopping can know.
        """
        generator = np.random.default_rng(0)
        trained = finished = 0.0
        for _ in range(simulations):
            recorded: dict[float, list[float]] = {epoch: [] for epoch in self.rungs}
            for number, rank in enumerate(generator.random(self.trials)):
                epochs: float = self.longest
                for epoch, seen in recorded.items():
                    cut = number and rank < _quantile(seen, 1 - 1 / self.factor)
                    bisect.insort(seen, rank)
                    if cut:
                        epochs = epoch
                        break
                trained += epochs
                finished += epochs == self.longest
        return trained / (simulations * self.trials * self.longest), finished / simulations

    def cut(self, scores: Iterable[float]) -> float:
        """What a trial has to reach at a rung, at which others had these scores; ASHA's."""
        return _quantile(sorted(scores), 1 - 1 / self.factor)

    def expected_end(self, number: int, epoch: int = 0, sure: Collection[float] = ()) -> float:
        """The epoch at which a trial that has trained `epoch` is expected to end, its rank being unknown.

        `sure`: rungs that it will pass. The i-th trial to arrive at one is the best so far once in i times,
        and passes at least then.
        """
        arriving, going_on, end = float(self.trials), 1.0, 0.0
        for stop in self.rungs if number else ():
            kept = [max(1 / self.factor, 1 / i) for i in range(1, max(1, round(arriving)) + 1)]
            passing = sum(kept) / len(kept)
            arriving *= passing
            passing = 1.0 if stop in sure else passing
            if stop > epoch:
                end, going_on = end + going_on * (1 - passing) * stop, going_on * passing
        return end + going_on * self.longest

    def doubt(self, searcher: SearcherName) -> str | None:
        """What to choose where too few trials would be trained in full; None if there are enough, or all of a
        grid."""
        _, finished = self.expected()
        if round(finished) >= HANDFUL or (searcher == "grid" and not self.rungs):
            return None
        none = ", or --scheduler none" if self.rungs and self.trials >= HANDFUL else ""
        return (
            f"about {finished:.0f} of {self.trials} trials will be trained in full, few to choose between; "
            f"choose --trials {max(HANDFUL, self.trials) * (2 if none else 1)} or more{none}"
        )


def stopping(request: SearchRequest, pool: Experiment) -> Stopping:
    """When trials of a search are stopped, so that about `HANDFUL` of them train in full.

    With n = r * HANDFUL trials, ASHA compares them first after 1 / r of the epochs (past any trial's
    warm-up), and lets one in r go on, in steps of about 3 (Li et al. 2020, section 3); the median of
    several is known after as long.
    """
    longest, training = longest_training(pool, request.space), pool.student.training
    ratio = max(1.0, request.trials / HANDFUL)
    warmup = math.ceil(longest_warmup(pool, request.space)) + 1
    grace = min(longest, max(math.ceil(longest / ratio), warmup, training.evaluate_every))
    factor = 2.0 if request.scheduler == "median" else ratio ** (1 / max(1, round(math.log(ratio, 3))))
    return Stopping(request.scheduler, request.trials, longest, grace, factor)


def _quantile(ordered: list[float], share: float) -> float:
    """As `numpy.percentile`, of a list in order; of an empty one, what is below everything."""
    if not ordered:
        return -math.inf
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def build_scheduler(stops: Stopping) -> "TrialScheduler":
    """Ray's scheduler, comparing `score` (higher is better) over epochs. None of them pauses a trial."""
    from ray.tune import schedulers

    kind: Any
    options: dict[str, Any] = {"time_attr": TIME, "metric": SCORE, "mode": "max", "grace_period": stops.grace}
    if not stops.rungs:
        return schedulers.FIFOScheduler()
    if stops.scheduler == "asha":
        kind = schedulers.AsyncHyperBandScheduler
        options |= {"max_t": stops.longest, "reduction_factor": stops.factor}
    else:
        kind = schedulers.MedianStoppingRule
        # By default it pauses trials while there are too few to compare them with: here they train on.
        options |= {"min_samples_required": 3, "min_time_slice": math.inf}

    class SparesTrial0(kind):
        """Trial 0 is what the others are compared with: it is trained in full."""

        asked = True
        """About trial 0 as well: once it would have been stopped, it must not be asked again."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
            go_on: str = schedulers.TrialScheduler.CONTINUE
            if trial.config["number"] or self.asked:
                decision: str = super().on_trial_result(tune_controller, trial, result)
                if trial.config["number"]:
                    return decision
                self.asked = decision == go_on
            return go_on

    made: TrialScheduler = SparesTrial0(**options)
    return made

"""When trials are stopped: rungs, what they are expected to save, and Ray's schedulers by name."""

import bisect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ekd_train.settings import Training
from orchestrator.tuning.names import SchedulerName
from orchestrator.tuning.request import SearchRequest

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

TIME, SCORE = "epoch", "score"
"""Names, in what a trial reports, of its epochs and of what is compared."""


def grace_epochs(training: Training, longest: int, warmup: float, factor: int) -> int:
    """Epochs before any trial may be stopped: three reductions below the end, and past any trial's warm-up.

    >>> grace_epochs(Training(epochs=100), 100, 0, 3)
    4
    >>> grace_epochs(Training(epochs=100), 100, 10, 3)
    11
    """
    return min(longest, max(math.ceil(longest / factor**3), math.ceil(warmup) + 1, training.evaluate_every))


def rungs(scheduler: SchedulerName, grace: int, longest: int, factor: int) -> list[int]:
    """Epochs after which trials are compared, before the last one.

    >>> rungs("asha", 2, 10, 3)
    [2, 6]
    """
    match scheduler:
        case "asha":
            count = int(math.log(longest / grace) / math.log(factor) + 1)
            return [epoch for k in range(count) if (epoch := grace * factor**k) < longest]
        case "median":
            return [grace]
        case "none":
            return []


def expected_share(request: SearchRequest, grace: int, longest: int, simulations: int = 200) -> float:
    """Share of the epochs of running all trials in full that is expected to be trained.

    Trials arrive one after another, each with a random rank that is the same at every rung: the
    most that early stopping can know.
    """
    factor = request.reduction_factor
    stops = rungs(request.scheduler, grace, longest, factor)
    if not stops:
        return 1.0
    generator = np.random.default_rng(0)
    kept = 1 / 2 if request.scheduler == "median" else 1 / factor
    trained = 0
    for _ in range(simulations):
        recorded: dict[int, list[float]] = {epoch: [] for epoch in stops}
        for rank in generator.random(request.trials):
            epochs = longest
            for epoch in stops:
                seen = recorded[epoch]
                cut = seen and rank < _quantile(seen, 1 - kept)
                bisect.insort(seen, rank)
                if cut:
                    epochs = epoch
                    break
            trained += epochs
    return trained / (simulations * request.trials * longest)


def _quantile(ordered: list[float], share: float) -> float:
    """As `numpy.percentile`, of a list in order."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def build_scheduler(request: SearchRequest, grace: int, longest: int) -> "TrialScheduler":
    """Ray's scheduler, comparing `score` (higher is better) over epochs. None of them pauses a trial."""
    from ray.tune import schedulers

    shared: dict[str, Any] = {"time_attr": TIME, "metric": SCORE, "mode": "max"}
    match request.scheduler:
        case "asha":
            return schedulers.AsyncHyperBandScheduler(
                **shared, grace_period=grace, max_t=longest, reduction_factor=request.reduction_factor
            )
        case "median":
            # By default it pauses trials while there are too few to compare them with: here they train on.
            never: Any = math.inf
            return schedulers.MedianStoppingRule(
                **shared, grace_period=grace, min_samples_required=3, min_time_slice=never
            )
        case "none":
            return schedulers.FIFOScheduler()

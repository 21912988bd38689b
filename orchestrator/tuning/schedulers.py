"""When trials are stopped: rungs, what they are expected to save, and Ray's schedulers by name."""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ekd_train.settings import Training
from orchestrator.tuning.domains import Choice, Domain
from orchestrator.tuning.names import SchedulerName
from orchestrator.tuning.request import SearchRequest

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

TIME, SCORE = "epoch", "score"
"""Names, in what a trial reports, of its epochs and of what is compared."""


def grace_epochs(training: Training, longest: int, factor: int) -> int:
    """Epochs before any trial may be stopped: three reductions below the end, and past the warm-up.

    >>> grace_epochs(Training(epochs=100), 100, 3)
    4
    """
    warmup = math.ceil(training.schedule.warmup_epochs)
    return min(longest, max(math.ceil(longest / factor**3), warmup + 1, training.evaluate_every))


def rungs(scheduler: SchedulerName, grace: int, longest: int, factor: int) -> list[int]:
    """Epochs after which trials are compared, before the last one.

    >>> rungs("asha", 2, 10, 3)
    [2, 6]
    """
    match scheduler:
        case "asha":
            count = int(math.log(longest / grace) / math.log(factor) + 1)
            return [epoch for k in range(count) if (epoch := grace * factor**k) < longest]
        case "hyperband":
            levels = round(math.log(longest) / math.log(factor))
            return sorted({max(1, int(longest / factor**k)) for k in range(1, levels + 1)})
        case "median":
            return [grace]
        case "pbt" | "none":
            return []


def expected_share(request: SearchRequest, grace: int, longest: int, simulations: int = 200) -> float:
    """Share of the epochs of running all trials in full that is expected to be trained.

    Trials arrive one after another, each with a random rank that is the same at every rung: the
    most that early stopping can know. PBT and no scheduler train everything.
    """
    factor, stops = (
        request.reduction_factor,
        rungs(request.scheduler, grace, longest, request.reduction_factor),
    )
    if request.scheduler == "hyperband":
        return _hyperband_share(request.trials, longest, factor)
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


def _hyperband_share(trials: int, longest: int, factor: int) -> float:
    """Brackets are filled in the order of Ray's `HyperBandScheduler`: the longest first."""
    levels = round(math.log(longest) / math.log(factor)) + 1
    left, trained, level = trials, 0.0, 0
    while left > 0:
        bracket = min(left, math.ceil(levels / (level + 1) * factor**level))
        epochs, size = max(1, int(longest / factor**level)), float(bracket)
        reached = 0
        while size >= 1 and epochs <= longest:
            trained += size * (epochs - reached)
            reached, epochs, size = epochs, epochs * factor, size / factor
        left -= bracket
        level = (level + 1) % levels
    return min(1.0, trained / (trials * longest))


def build_scheduler(request: SearchRequest, grace: int, longest: int) -> TrialScheduler:
    """Ray's scheduler, comparing `score` (higher is better) over epochs."""
    from ray.tune import schedulers

    shared: dict[str, Any] = {"time_attr": TIME, "metric": SCORE, "mode": "max"}
    match request.scheduler:
        case "asha":
            return schedulers.AsyncHyperBandScheduler(
                **shared, grace_period=grace, max_t=longest, reduction_factor=request.reduction_factor
            )
        case "hyperband":
            return schedulers.HyperBandScheduler(
                **shared, max_t=longest, reduction_factor=request.reduction_factor
            )
        case "median":
            return schedulers.MedianStoppingRule(**shared, grace_period=grace, min_samples_required=3)
        case "pbt":
            return _population_based(request, shared, grace, longest)
        case "none":
            return schedulers.FIFOScheduler()


def _population_based(
    request: SearchRequest, shared: dict[str, Any], grace: int, longest: int
) -> TrialScheduler:
    from ray.tune.schedulers import PopulationBasedTraining

    domains = request.space.domains
    generator = np.random.default_rng()

    class Bounded(PopulationBasedTraining):
        """Keeps values inside their domains, and each trial its own number."""

        def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
            config, operations = super()._get_new_config(trial, trial_to_clone)
            values = {k: _inside(domains[k], v) for k, v in config["values"].items()}
            return {**config, "number": trial.config["number"], "values": values}, operations

    mutations: dict[str, Any] = {
        key: list(domain.choice)
        if isinstance(domain, Choice)
        else (lambda domain=domain: domain.draw(generator))
        for key, domain in domains.items()
    }
    return Bounded(
        **shared,
        perturbation_interval=max(1, longest // 10),
        burn_in_period=grace,
        hyperparam_mutations={"values": mutations},
        log_config=False,
    )


def _inside(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Choice):
        return value
    low, high = domain.ends
    return min(high, max(low, value))

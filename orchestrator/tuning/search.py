"""The search itself: the only builder of a Ray `Tuner`.

What Tune keeps of an experiment is not used to go on after an interruption: it is pickled, lags
behind, and knows neither MLflow nor our checkpoints. The ledger is. Trials that had ended are
told to the scheduler again, trials that had begun continue, and the rest is proposed anew.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import Experiment
from orchestrator.storage import Storage
from orchestrator.storage.vendor_settings import ray_storage
from orchestrator.tuning.cohorts import Cohort, brackets
from orchestrator.tuning.cost import trial_cost
from orchestrator.tuning.ledger import Ledger
from orchestrator.tuning.population import Population
from orchestrator.tuning.proposals import Proposer
from orchestrator.tuning.request import SearchRequest, longest_training, longest_warmup
from orchestrator.tuning.schedulers import build_scheduler, exploit_epochs, grace_epochs, rungs
from orchestrator.tuning.trial import Trial
from orchestrator.tuning.workshops import TrialPost

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune's own logs, tables, state and signal handling, all of which are ours to do."""


@dataclass(frozen=True)
class Search:
    """One search: what is asked, of which experiment, and where things are."""

    request: SearchRequest
    pool: Experiment
    storage: Storage
    ledger: Ledger
    proposer: Proposer
    post: TrialPost

    @property
    def longest(self) -> int:
        """Epochs of the longest trial."""
        return longest_training(self.pool, self.request.space)

    @property
    def grace(self) -> int:
        """Epochs before any trial may be stopped."""
        warmup = longest_warmup(self.pool, self.request.space)
        return grace_epochs(self.pool.student.training, self.longest, warmup, self.request.reduction_factor)


def run_search(search: Search, recorder: Any, at_once: int, time_budget_s: float | None) -> None:
    """Run trials until all have ended or the time is over; `recorder` is a `tune.Callback`.

    Args:
        search: what to search.
        recorder: hears of everything and keeps it (`orchestrator.tuning.recorder`).
        at_once: trials side by side.
        time_budget_s: what is left of it; None: no limit.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import tune

    request, cluster = search.request, search.pool.cluster
    population = _population(search, recorder)
    waiting = _waiting(search, population, at_once)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)
    path, filesystem = ray_storage(search.storage)
    name = f"ray/tune-{time.time_ns()}"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trial, post=search.post),
            tune.PlacementGroupFactory([trial_resources(cluster)]),
        ),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(search, waiting, population),
            scheduler=waiting or build_scheduler(request, search.grace, search.longest),
            # Ray ends the processes of paused trials as soon as no new trial can come.
            num_samples=-1 if waiting else request.trials,
            # Ray's limit counts paused trials, which then keep the others from ever starting.
            max_concurrent_trials=None if waiting else at_once,
            time_budget_s=time_budget_s,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    tuner.fit()
    search.storage.delete_prefix(name)


def trial_resources(cluster: Cluster) -> dict[str, float]:
    """What a trial's own process asks of the cluster.

    A trial of several workers trains in a worker pool, which asks for itself; its own process
    takes a little memory alone, so that it never stands in the way of anybody's workers.
    """
    if cluster.most_workers > 1:
        return {"memory": float(1 << 20)}
    resources: dict[str, float] = {"CPU": cluster.cpus_per_worker}
    return resources | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})


def _population(search: Search, recorder: Any) -> Population | None:
    if search.request.scheduler != "pbt":
        return None
    return Population(search.storage, search.ledger, search.request.space, search.pool.seed, recorder.cloned)


def _waiting(search: Search, population: Population | None, at_once: int) -> Any:
    """The scheduler that pauses trials; None if the request's does not."""
    request = search.request
    if request.scheduler not in ("hyperband", "pbt"):
        return None
    from orchestrator.tuning.waiting import Waiting

    if population is not None:
        left = {n for n in range(request.trials) if not _ended(search.ledger, n)}
        stops = exploit_epochs(search.pool.student.training, search.grace, search.longest)
        cohort = Cohort(left, [epoch for epoch in stops if epoch > population.epoch])
        return Waiting([cohort], lambda cohort: ([], population.decide(cohort)), at_once)
    factor = request.reduction_factor
    stops = rungs("hyperband", search.grace, search.longest, factor)
    made = brackets(request.trials, stops, factor)
    cohorts = [Cohort(set(b.numbers), list(b.stops), list(b.kept(factor))) for b in made]
    return Waiting(cohorts, lambda cohort: (cohort.halve(), {}), at_once)


def _ended(ledger: Ledger, number: int) -> bool:
    return number in ledger.trials and ledger.trials[number].ended


def _searcher(search: Search, waiting: Any, population: Population | None) -> Any:
    from ray.tune.search import Searcher

    ledger, proposer = search.ledger, search.proposer

    class Proposals(Searcher):
        """Trials that were proposed before, then new ones, in the order of their numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.number = 0

        def __reduce__(self) -> tuple[type[object], tuple[()]]:
            return object, ()  # as the recorder: a copy for Tune's own resume

        def suggest(self, trial_id: str) -> Any:
            number = self.number
            if number >= search.request.trials:
                return Searcher.FINISHED if waiting is None or waiting.over else None
            if waiting is not None and not waiting.room:
                return None
            record = ledger.trials.get(number)
            if record is None:
                if (values := proposer.propose(number)) is None:
                    return Searcher.FINISHED
                record = ledger.propose(number, values, trial_cost(search.pool, values))
            self.number += 1
            if population is not None:
                return population.configuration(record)
            return {"number": number, "values": dict(record.values)}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """The recorder tells the proposer, which needs our record of the trial."""

        def save(self, checkpoint_path: str) -> None:
            """The ledger is the state."""

        def restore(self, checkpoint_path: str) -> None:
            """The ledger is the state."""

    return Proposals()

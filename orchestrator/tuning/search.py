"""The search itself: the only builder of a Ray `Tuner`.

What Tune keeps of an experiment is not used to go on after an interruption: it is pickled, lags
behind, and knows neither MLflow nor our checkpoints. The trial store is. Trials that had ended
report to the scheduler again, trials that had begun continue, and the rest is suggested anew.
"""

import os
from dataclasses import dataclass
from typing import Any

from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import Experiment
from orchestrator.runtime.leftovers import scratch
from orchestrator.tuning.cost import trial_cost, trial_epochs
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.schedulers import build_scheduler, stopping
from orchestrator.tuning.searchers import Searcher
from orchestrator.tuning.trial import Trial
from orchestrator.tuning.trial_executor import TrialSetup
from orchestrator.tuning.trial_store import TrialStore

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
    """One search: what is asked, of which experiment, and what it works with."""

    request: SearchRequest
    pool: Experiment
    trials: TrialStore
    searcher: Searcher
    setup: TrialSetup


def run_search(search: Search, callback: Any, at_once: int, time_budget_s: float | None) -> None:
    """Run `at_once` trials side by side until all have ended or the time is over; `callback`: Tune's.

    `time_budget_s`: what is left of it; None: no limit.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import tune

    request, cluster = search.request, search.pool.cluster
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)
    # What Tune writes it also unpickles: it stays here, in a folder that only this user can write to.
    with scratch("ekd-tune-") as folder:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Trial, trial_setup=search.setup),
                tune.PlacementGroupFactory([trial_resources(cluster)]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=_suggestions(search),
                scheduler=build_scheduler(stopping(request, search.pool)),
                num_samples=request.trials,
                max_concurrent_trials=at_once,
                time_budget_s=time_budget_s,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(folder),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials store their own
                failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                callbacks=[callback],
                verbose=0,
            ),
        ).fit()


def trial_resources(cluster: Cluster) -> dict[str, float]:
    """What a trial's own process asks of the cluster.

    A trial of several workers trains in a worker pool, which asks for itself; its own process
    takes a little memory alone, so that it never stands in the way of anybody's workers.
    """
    if cluster.most_workers > 1:
        return {"memory": float(1 << 20)}
    resources: dict[str, float] = {"CPU": cluster.cpus_per_worker}
    return resources | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})


def _suggestions(search: Search) -> Any:
    from ray.tune.search import Searcher

    store, searcher = search.trials, search.searcher

    class Suggestions(Searcher):
        """Trials that were suggested before, then new ones, in the order of their numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.number = 0

        def __reduce__(self) -> tuple[type[object], tuple[()]]:
            return object, ()  # as the callback: a copy for Tune's own resume

        def suggest(self, trial_id: str) -> Any:
            number = self.number
            if number >= search.request.trials:
                return Searcher.FINISHED
            record = store.trials.get(number)
            if record is None:
                if (values := searcher.suggest(number)) is None:
                    return Searcher.FINISHED
                record = store.add(
                    number,
                    values,
                    trial_cost(search.pool, values),
                    planned_epochs=trial_epochs(search.pool, values),
                    baseline=number == 0,
                    seeds=search.request.seeds,
                )
            self.number += 1
            return {"number": number, "values": dict(record.values)}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Nothing: the callback gives our searcher the record of the trial."""

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the trial store is the state."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: the trial store is the state."""

    return Suggestions()

"""What training a trial's student costs, and how long it is expected to take."""

from collections.abc import Mapping
from typing import Any

from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.estimate import Training
from orchestrator.planning.plan import training_work
from orchestrator.tuning.pool import trial_experiment
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.schedulers import Stopping
from orchestrator.tuning.trial_store import trial_name


def trial_cost(pool: Experiment, values: Mapping[str, Any]) -> float:
    """Forward-pass equivalents of training the student in full, for each image of the training split."""
    return training_work(trial_experiment(pool, values).student_run())


def trial_epochs(pool: Experiment, values: Mapping[str, Any]) -> int:
    """Epochs of training the student in full."""
    return trial_experiment(pool, values).student_run().epochs


def expected_trial(
    pool: Experiment,
    request: SearchRequest,
    stops: Stopping,
    number: int,
    effort: float,
    values: Mapping[str, Any] | None = None,
    epoch: int = 0,
) -> Training:
    """A trial that has trained `epoch` epochs, for the estimate of the time left.

    `effort`: of the pool's student; `values`: None while nobody has suggested any.
    """
    training = trial_experiment(pool, values or {}).student_run().training
    return Training(
        trial_name(number),
        training.epochs,
        request.seeds * effort * trial_cost(pool, values or {}) / trial_cost(pool, {}),
        tuple(run.name for run in pool.teacher_runs()),
        min(1.0, stops.expected_end(number, epoch) / training.epochs),
        trial=True,
    )

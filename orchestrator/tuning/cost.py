"""What training a trial's student costs."""

from collections.abc import Mapping
from typing import Any

from orchestrator.experiment.schema import Experiment
from orchestrator.planning.plan import training_work
from orchestrator.tuning.pool import trial_experiment


def trial_cost(pool: Experiment, values: Mapping[str, Any]) -> float:
    """Forward-pass equivalents of training the student in full, for each image of the training split."""
    return training_work(trial_experiment(pool, values).student_run())

"""How long training runs take relative to each other: what the estimate of the time left is made of.

Multiply-accumulates alone say too little of small networks, whose calls and validations cost as much for a
few images as for many. The constants are of `ekd run digits`: 1.8 ms a call and 50 ms a validation (metrics,
report, the best weights) on a core of 20 G multiply-accumulates a second.
"""

from ekd_train.data.description import DataDescription
from orchestrator.experiment.schema import Experiment
from orchestrator.planning.plan import PlannedRun, Sizes, passes, planned_runs

CALL, VALIDATION = 35e6, 1e9
"""Multiply-accumulates that a core could have done in what one forward or backward, and what one validation
take whatever their size."""
GPU = 1000
"""Cores that compute as much as a GPU, which is no quicker to call."""


def efforts(
    experiment: Experiment, description: DataDescription, sizes: Sizes | None = None
) -> dict[str, float]:
    """By training run: the multiply-accumulates that it takes as long as. Imports torch.

    `sizes` as `planned_runs`.
    """
    faster = GPU if experiment.cluster.gpus_per_worker else 1
    return {
        item.run.name: _effort(item, description, faster)
        for item in planned_runs(experiment, description, sizes=sizes)
    }


def _effort(item: PlannedRun, description: DataDescription, faster: int) -> float:
    training, student = item.run.training, item.run.student
    validations = item.run.epochs / training.evaluate_every or 1  # of a given teacher
    measured = 1 if student is None or student.method == "kd" else student.members + 1  # and the average
    computed = item.flops / 2 + validations * measured * description.validation * item.macs
    fixed = CALL * (passes(item.run).calls * item.steps + validations * measured) + VALIDATION * validations
    return computed + fixed * faster

"""What a user asks of a search, and whether its parts can work together."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from ekd_train.persistence.identity import differing, identity_of
from ekd_train.settings import Positive, PositiveFloat, Settings
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import Experiment
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.names import DEFAULT_TRIALS, SchedulerName, SearcherName
from orchestrator.tuning.space import Space

POINTS_PER_RANGE = 3
"""Of a grid: a range becomes its ends and its middle."""

MUTABLE = (
    "distillation.temperature",
    "distillation.alpha",
    "distillation.ekd.label",
    "distillation.ekd.distillation",
    "perturbation.strength",
    "perturbation.temperature",
    "student.training.learning_rate",
    "student.training.weight_decay",
    "student.training.momentum",
)
"""What may change while a network trains: neither its shape, nor its schedule, nor its teachers."""


class SearchRequest(Settings):
    """`ekd tune`'s options."""

    space: Space
    scheduler: SchedulerName = "asha"
    searcher: SearcherName = "random"
    trials: Positive = DEFAULT_TRIALS
    seeds: Positive = 1
    """Networks trained of each configuration; what is compared is their mean."""
    time_budget_s: PositiveFloat | None = None
    """Of searching, all starts together; the final training comes after it."""
    max_concurrent: Positive | None = None
    reduction_factor: Positive = Field(default=3, ge=2)
    """ASHA and HyperBand let about one trial in so many go on at every rung."""

    def identity(self) -> dict[str, Any]:
        """What decides which trials there are, as far as it differs from the defaults; budgets of time and
        place do not."""
        return differing(self, without=("time_budget_s", "max_concurrent"))

    def default_run_id(self, experiment: Experiment) -> str:
        """The id under which the same command finds the same search again."""
        return f"{experiment.name}-tune-{identity_of(experiment.result_hash(), self.identity())[:10]}"


def grid_size(space: Space) -> int:
    """How many points a grid over `space` has."""
    return math.prod(len(domain.points(POINTS_PER_RANGE)) for domain in space.domains.values())


def default_trials(searcher: str, space: Space) -> int:
    """Where `--trials` is left out: the whole grid, else `DEFAULT_TRIALS`."""
    return grid_size(space) if searcher == "grid" else DEFAULT_TRIALS


def longest_training(experiment: Experiment, space: Space) -> int:
    """Epochs of the longest trial."""
    domain = space.domains.get("student.training.epochs")
    if domain is None:
        return experiment.student.training.epochs
    return max(int(value) for value in domain.values)


def longest_warmup(experiment: Experiment, space: Space) -> float:
    """Epochs of the longest warm-up of a trial, before which learning rates are not what they are to be."""
    domain = space.domains.get("student.training.schedule.warmup_epochs")
    if domain is None:
        return experiment.student.training.schedule.warmup_epochs
    return max(float(value) for value in domain.values)


def check_request(request: SearchRequest, experiment: Experiment) -> None:
    """Raise `ExperimentError` if scheduler, searcher, space and cluster cannot work together."""
    space = request.space
    if request.scheduler == "pbt":
        _check_pbt(request)
    if request.scheduler in ("hyperband", "pbt"):
        _check_pausing(request, experiment.cluster)
    if request.searcher == "pareto" and request.scheduler != "none":
        raise ExperimentError(
            f"--searcher pareto with --scheduler {request.scheduler}: stopping early ranks trials by "
            "accuracy alone and would cut off the cheap end of the Pareto set; add --scheduler none"
        )
    if request.searcher == "grid" and request.trials > grid_size(space):
        raise ExperimentError(
            f"--searcher grid: the grid over space {space.name} has {grid_size(space)} points, fewer than "
            f"--trials {request.trials}; leave --trials out to run all of them"
        )
    if experiment.student.architecture.pruned:
        _check_pruned(space)
    cluster = experiment.cluster
    if cluster.most_workers > 1 and cluster.gpus_per_worker % 1:
        raise ExperimentError(
            f"cluster.gpus_per_worker={cluster.gpus_per_worker:g}: workers of one run cannot share a GPU "
            "(NCCL refuses it); use whole GPUs, or cluster.workers_per_run=1 to pack several trials on one"
        )


def _check_pbt(request: SearchRequest) -> None:
    if fixed := [key for key in request.space.domains if key not in MUTABLE]:
        raise ExperimentError(
            f"--scheduler pbt changes settings of networks in training, but {', '.join(fixed)} of space "
            f"{request.space.name} decides which network it is or how it is scheduled; use a space of "
            f"{', '.join(MUTABLE)} alone, or another scheduler"
        )
    if request.searcher != "random":
        raise ExperimentError(
            f"--scheduler pbt proposes settings itself; --searcher {request.searcher} has no part in it: "
            "use --searcher random"
        )
    if request.seeds > 1:
        raise ExperimentError("--scheduler pbt copies single networks between trials; use --seeds 1")
    if request.trials < 4:
        raise ExperimentError(
            f"--scheduler pbt needs a population of 4 or more, not --trials {request.trials}"
        )
    if any(
        isinstance(domain, Choice) and len(domain.choice) < 2 for domain in request.space.domains.values()
    ):
        raise ExperimentError("--scheduler pbt: a choice of one value leaves nothing to change")


def _check_pruned(space: Space) -> None:
    """All trials start from one unpruned network, which has the student's architecture and training."""
    if moved := [k for k in space.domains if k.startswith(("student.architecture.", "student.training."))]:
        raise ExperimentError(
            f"space {space.name} changes {', '.join(moved)}, but student.architecture.pruned is set: the "
            "unpruned network that every trial starts from is trained once; search with pruned=0 first, or "
            "in a space without these"
        )


def _check_pausing(request: SearchRequest, cluster: Cluster) -> None:
    if cluster.most_workers > 1:
        raise ExperimentError(
            f"--scheduler {request.scheduler} with cluster.workers_per_run above 1: it pauses trials until "
            "others have caught up, and a worker pool cannot be paused; use asha"
        )

"""What a user asks of a search, and whether its parts can work together."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from ekd_train.persistence.identity import differing, identity_of
from ekd_train.settings import Positive, PositiveFloat
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.tuning.names import DEFAULT_TRIALS, SchedulerName, SearcherName
from orchestrator.tuning.space import Space

POINTS_PER_RANGE = 3
"""Of a grid: a range becomes its ends and its middle."""


class AskedSearch(BaseModel):
    """`ekd tune`'s options as they are stored: perhaps of a version whose schedulers are no more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    space: Space
    scheduler: str = "asha"
    searcher: str = "random"
    trials: Positive = DEFAULT_TRIALS
    seeds: Positive = 1
    """Networks trained of each configuration; what is compared is their mean."""
    time_budget_s: PositiveFloat | None = None
    """Of searching, all starts together; the final training comes after it."""
    max_concurrent: Positive | None = None
    baseline: dict[str, Any] = {}
    """What trial 0, the experiment as it stands, has otherwise than the experiment with the pool of teachers:
    `teachers.count` and `student.members`."""

    def identity(self) -> dict[str, Any]:
        """What decides which trials there are, as far as it differs from the defaults; budgets of time and
        place do not."""
        return differing(self, without=("time_budget_s", "max_concurrent"))


class SearchRequest(AskedSearch):
    """`ekd tune`'s options."""

    scheduler: SchedulerName = "asha"
    searcher: SearcherName = "random"

    def default_run_id(self, experiment: Experiment) -> str:
        """The id under which the same command finds the same search again."""
        return f"{experiment.name}-tune-{identity_of(experiment.result_hash(), self.identity())[:10]}"


def grid_size(space: Space) -> int:
    """How many points a grid over `space` has."""
    return math.prod(len(domain.points(POINTS_PER_RANGE)) for domain in space.domains.values())


def most_trials(space: Space, baseline: Mapping[str, Any]) -> int:
    """Of a grid search: its points, and the experiment as it stands unless that is one of them."""
    among = all(baseline[key] in domain.points(POINTS_PER_RANGE) for key, domain in space.domains.items())
    return grid_size(space) + (not among)


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


def check_request(request: SearchRequest, experiment: Experiment, baseline: Mapping[str, Any]) -> None:
    """Raise `ExperimentError` if scheduler, searcher, space and cluster cannot work together.

    `baseline`: trial 0's values (`orchestrator.tuning.pool.baseline_values`).
    """
    space = request.space
    if request.searcher == "pareto" and request.scheduler != "none":
        raise ExperimentError(
            f"--searcher pareto with --scheduler {request.scheduler}: stopping early ranks trials by "
            "accuracy alone and would cut off the cheap end of the Pareto set; add --scheduler none"
        )
    if request.searcher == "grid" and request.trials > (most := most_trials(space, baseline)):
        raise ExperimentError(
            f"--searcher grid: the experiment as it stands and the grid over space {space.name} are {most} "
            f"trials, fewer than --trials {request.trials}; leave --trials out to run all of them"
        )
    if experiment.student.architecture.pruned:
        _check_pruned(space)


def _check_pruned(space: Space) -> None:
    """All trials start from one unpruned network, which has the student's architecture and training."""
    if moved := [k for k in space.domains if k.startswith(("student.architecture.", "student.training."))]:
        raise ExperimentError(
            f"space {space.name} changes {', '.join(moved)}, but student.architecture.pruned is set: the "
            "unpruned network that every trial starts from is trained once; search with pruned=0 first, or "
            "in a space without these"
        )

"""One pool of teachers for all trials, and the experiment that one trial is.

The pool is as large as the largest number of teachers that any trial asks for. By default a trial
is taught by as many of them as its student has members: the pool's first ones, so that every
trial with m members has the same m teachers, costs what the same student would cost in `ekd run`,
and is what the papers train. With `distillation.assignment=rotating` the whole pool teaches every
trial, in turn: fewer members then see more teachers, but none keeps one of its own, which is what
sets members apart.
"""

import json
from collections.abc import Iterable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any

from ekd_train.own_code import is_own
from ekd_train.settings import TrainingRun
from ekd_train.settings.distillation import PAIRING
from orchestrator.errors import ExperimentError
from orchestrator.experiment.method_defaults import (
    CLIP_NORM,
    DECIDE_CLIPPING,
    with_defaults_of_another_method,
)
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.experiment.yaml_tree import set_key
from orchestrator.tuning.domains import Domain, whole_numbers

TEACHERS, MEMBERS = "teachers.count", "student.members"

UNSEARCHABLE = ("name", "description", "seed", "data", "cluster", "storage", "tracking")
"""Keys that say where a run happens, or on what; trials of one search must agree on them."""


def pool_experiment(experiment: Experiment, domains: Mapping[str, Domain]) -> Experiment:
    """`experiment` with as many teachers as any trial may ask for.

    More than it has are added to its last group of teachers. Raises `ExperimentError`.
    """
    wanted = [experiment.teacher_count]
    for key in (TEACHERS, MEMBERS):
        if (domain := domains.get(key)) is not None:
            wanted += whole_numbers(domain)
    tree = experiment.resolved()
    if (missing := max(wanted) - experiment.teacher_count) == 0:
        return experiment
    tree["teachers"][-1]["count"] += missing
    if experiment.pairs_members or experiment.perturbation.kind == "tdiv_sdiv":
        tree["student"]["members"] = max(wanted)
    return build_experiment(tree)


def unlike_pool(experiment: Experiment, pool: Experiment) -> dict[str, Any]:
    """The values that make `experiment` of its pool: none where the pool has no more teachers than it."""
    if pool == experiment:
        return {}
    return {TEACHERS: experiment.teacher_count, MEMBERS: experiment.student.members}


def baseline_values(
    pool: Experiment, keys: Iterable[str], unlike: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The values of `keys` in the experiment as it stands: those of trial 0. `unlike`: `unlike_pool`.

    Raises `ExperimentError`: an option of one's own code that the experiment leaves out.
    """
    tree = pool.resolved()

    def value(key: str) -> Any:
        try:
            return reduce(lambda inner, part: inner[part], key.split("."), tree)
        except KeyError:
            raise ExperimentError(
                f"{key}: the experiment leaves it out, and is trial 0 as it stands: --set {key}=VALUE"
            ) from None

    standing = {key: pool.teacher_count if key == TEACHERS else value(key) for key in keys}
    return standing | dict(unlike)


def trial_experiment(pool: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment of one trial: `pool` with `values` set, and the teachers that it needs.

    Raises `ExperimentError` when the values contradict each other.
    """
    tree = json.loads(json.dumps(pool.resolved()))
    for key, value in values.items():
        if key.split(".")[0] in UNSEARCHABLE:  # a stored trial says so
            raise ExperimentError(f"{key}: no trial sets it; trials of one search agree on it")
        if key != TEACHERS:
            set_key(tree, key, value)
    count = values.get(TEACHERS, _needed(tree, pool))
    if not isinstance(count, int) or not 1 <= count <= pool.teacher_count:
        raise ExperimentError(f"{TEACHERS}={count}: the pool has {pool.teacher_count} teachers")
    tree["teachers"] = _first(tree["teachers"], count)
    trial = build_experiment(tree)
    if CLIP_NORM in values:
        return trial
    before = pool.student, pool.distillation
    student = with_defaults_of_another_method(trial.student, trial.distillation, before)
    return trial.model_copy(update={"student": student})


def trial_runs(pool: Experiment, values: Mapping[str, Any], seeds: int) -> tuple[TrainingRun, ...]:
    """The students of one trial, alike but for their seed; the first is the experiment's own student."""
    run = trial_experiment(pool, values).student_run()
    return tuple(run.model_copy(update={"seed": run.seed + number}) for number in range(seeds))


def same_in_all_trials(run: TrainingRun, keys: Iterable[str]) -> bool:
    """Whether a training run of the experiment is every trial's, in a space of these keys."""
    if run.role == "student":
        return False
    of_student = ("student.architecture.", "student.training.", *DECIDE_CLIPPING)
    return run.name != "control" or not any(key.startswith(of_student) for key in keys)


def _needed(tree: Mapping[str, Any], pool: Experiment) -> int:
    """As many teachers as members where they are paired, else the whole pool."""
    student, distillation = tree["student"], tree["distillation"]
    objective = distillation["objective"]
    paired = objective in PAIRING or (distillation["pairs_members"] and is_own(objective))
    compared = tree["perturbation"]["kind"] == "tdiv_sdiv"
    if distillation["assignment"] == "rotating":
        return pool.teacher_count
    plain = student["method"] in ("kd", "papa")
    if plain or not (paired or compared) or not isinstance(student["members"], int):
        return pool.teacher_count
    return min(int(student["members"]), pool.teacher_count)


def _first(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The groups of the first `count` teachers."""
    kept = []
    for group in groups:
        if count > 0:
            kept.append({**group, "count": min(group["count"], count)})
            count -= group["count"]
    return kept

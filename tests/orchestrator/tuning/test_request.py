"""What cannot work together is refused with its reason; what can is priced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from training_runs import a_description

from ekd_train.settings import Training
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.capacity import Capacity, Node
from orchestrator.tuning.capacity import trials_at_once
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.plan import search_lines
from orchestrator.tuning.pool import pool_experiment
from orchestrator.tuning.request import (
    SearchRequest,
    check_request,
    default_trials,
    grid_size,
    longest_warmup,
)
from orchestrator.tuning.schedulers import build_scheduler, expected_share, grace_epochs, rungs
from orchestrator.tuning.search import trial_resources
from orchestrator.tuning.space import Space, load_space


def request(**options: Any) -> SearchRequest:
    return SearchRequest.model_validate({"space": load_space("student"), **options})


@pytest.mark.parametrize(
    ("options", "overrides", "complaint"),
    [
        ({"searcher": "pareto"}, [], "add --scheduler none"),
        ({"searcher": "grid", "trials": 28}, [], "27 points"),
        ({}, ["cluster.workers_per_run=2", "cluster.gpus_per_worker=0.5"], "cannot share a GPU"),
        (
            {"space": load_space("training")},
            ["student.architecture.pruned=0.25"],
            "space training changes student.training.*, but student.architecture.pruned is set",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(
    options: dict[str, Any], overrides: list[str], complaint: str
) -> None:
    with pytest.raises(ExperimentError, match=complaint) as caught:
        check_request(request(**options), load_experiment("digits", overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ({}, []),
        ({"scheduler": "median", "searcher": "optuna", "seeds": 3}, []),
        ({"scheduler": "none", "searcher": "pareto"}, []),
        ({"searcher": "grid", "trials": 27}, []),
        ({}, ["cluster.gpus_per_worker=0.25"]),
        ({}, ["student.architecture.pruned=0.25"]),
        ({}, ["cluster.workers_per_run=2", "cluster.gpus_per_worker=1"]),
    ],
)
def test_what_can_work_together_is_accepted(options: dict[str, Any], overrides: list[str]) -> None:
    check_request(request(**options), load_experiment("digits", overrides))


def test_a_grid_is_run_whole_unless_told_otherwise() -> None:
    assert grid_size(load_space("student")) == default_trials("grid", load_space("student")) == 27
    assert default_trials("random", load_space("student")) == 24


def test_the_run_id_depends_on_what_is_searched_and_not_on_budgets() -> None:
    digits = load_experiment("digits")
    plain = request().default_run_id(digits)
    assert plain == request(time_budget_s=60, max_concurrent=1).default_run_id(digits)
    others = [{"trials": 25}, {"seeds": 2}, {"searcher": "optuna"}, {"scheduler": "none"}]
    ids = {request(**changes).default_run_id(digits) for changes in others}
    assert len(ids | {plain}) == 5
    assert plain != request().default_run_id(load_experiment("digits", ["seed=1"]))


@pytest.mark.parametrize(
    ("training", "grace"),
    [
        (Training(epochs=100), 4),
        (Training(epochs=100, schedule={"warmup_epochs": 5}), 6),
        (Training(epochs=10), 1),
        (Training(epochs=10, evaluate_every=5), 5),
        (Training(epochs=1, schedule={"warmup_epochs": 5}), 1),
    ],
)
def test_no_trial_is_stopped_before_its_warm_up_is_over(training: Training, grace: int) -> None:
    assert grace_epochs(training, training.epochs, training.schedule.warmup_epochs, 3) == grace


def test_no_trial_is_stopped_in_the_warm_up_of_another(tmp_path):
    (space := tmp_path / "warmups.yaml").write_text(
        "description: warm-ups\n"
        "domains:\n"
        "  student.training.schedule.warmup_epochs: {choice: [2, 10], reason: which is enough}\n"
    )
    experiment = load_experiment("digits", ["student.training.epochs=100"])
    assert longest_warmup(experiment, load_space(str(space))) == 10
    student = load_space("student")  # which has no warm-up
    assert longest_warmup(experiment, student) == experiment.student.training.schedule.warmup_epochs


def test_asha_has_the_rungs_that_ray_has() -> None:
    pytest.importorskip("ray.tune")
    from ray.tune.schedulers import AsyncHyperBandScheduler

    for grace, longest in ((1, 10), (2, 10), (6, 100), (1, 81), (3, 3)):
        ray = AsyncHyperBandScheduler(
            metric="score", mode="max", grace_period=grace, max_t=longest, reduction_factor=3
        )
        theirs = sorted(milestone for milestone, _ in ray._brackets[0]._rungs)
        assert rungs("asha", grace, longest, 3) == [m for m in theirs if m < longest]


class Waiting:
    """A trial that has not begun."""

    status = "PENDING"

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_no_scheduler_pauses_a_trial_for_those_that_wait(scheduler: str) -> None:
    from ray.tune.schedulers import TrialScheduler

    built = build_scheduler(request(scheduler=scheduler), 1, 9)
    trials = [Waiting(number) for number in range(6)]
    controller = SimpleNamespace(get_live_trials=lambda: trials)
    decisions = set()
    for trial in trials:
        built.on_trial_add(controller, trial)
        for epoch in range(1, 9):
            made = built.on_trial_result(controller, trial, {"epoch": epoch, "score": 1 / (epoch + 2)})
            decisions.add(made)
    assert decisions <= {TrialScheduler.CONTINUE, TrialScheduler.STOP}


def test_early_stopping_is_expected_to_save_about_what_successive_halving_does() -> None:
    full = expected_share(request(scheduler="none"), 4, 100)
    assert full == 1
    asha = expected_share(request(trials=300), 4, 100)
    # A third passes each of the rungs at 4, 12, 36: 0.04 + 0.08/3 + 0.24/9 + 0.64/27.
    assert asha == pytest.approx(0.117, abs=0.03)
    assert asha < expected_share(request(trials=24), 4, 100) < 0.4


HUNDRED_EPOCHS = ["student.training.epochs=100", "student.training.evaluate_every=2"]
CLUSTER = Capacity((Node(8, 2), Node(4, 0)), "a test")


@pytest.mark.parametrize(
    ("overrides", "options", "at_once"),
    [
        ([], {}, 12),
        (["cluster.cpus_per_worker=3"], {}, 3),
        (["cluster.workers_per_run=5"], {}, 2),
        (["cluster.workers_per_run=[2, 5]"], {}, 2),
        (["cluster.workers_per_run=[2, 50]"], {}, 1),  # it takes all 12 CPUs
        (["cluster.gpus_per_worker=0.25"], {}, 8),
        (["cluster.gpus_per_worker=1", "cluster.workers_per_run=2"], {}, 1),
        (["cluster.runs_at_once=3"], {}, 3),
        ([], {"max_concurrent": 2}, 2),
        ([], {"trials": 5}, 5),
    ],
)
def test_trials_at_once_all_have_their_workers(
    overrides: list[str], options: dict[str, Any], at_once: int
) -> None:
    cluster = load_experiment("digits", overrides).cluster
    assert trials_at_once(cluster, CLUSTER, request(**options)) == at_once


def test_a_trial_of_several_workers_leaves_all_cpus_to_them() -> None:
    assert trial_resources(load_experiment("digits", ["cluster.cpus_per_worker=2"]).cluster) == {"CPU": 2}
    packed = load_experiment("digits", ["cluster.gpus_per_worker=0.25"]).cluster
    assert trial_resources(packed) == {"CPU": 1, "GPU": 0.25}
    several = load_experiment("digits", ["cluster.workers_per_run=2"]).cluster
    assert not {"CPU", "GPU"} & trial_resources(several).keys()


def test_the_plan_says_trials_rungs_passes_and_what_runs_at_once() -> None:
    asked = request(trials=24)
    pool = pool_experiment(load_experiment("digits", HUNDRED_EPOCHS), asked.space.domains)
    text = "\n".join(search_lines(asked, pool, a_description(train=300), CLUSTER))
    assert "24, random search" in text
    assert "rungs after epochs 6, 18, 54" in text
    assert "if all trials train in full, about" in text
    assert "12 trials of 1 CPU" in text
    assert "a pool of 4, trained once" in text


def plan_of(overrides: Sequence[str] = (), **options: Any) -> str:
    asked = request(**options)
    pool = pool_experiment(load_experiment("digits", [*HUNDRED_EPOCHS, *overrides]), asked.space.domains)
    return "\n".join(search_lines(asked, pool, a_description(train=300), CLUSTER))


def test_several_seeds_are_in_the_plan_and_in_its_cost() -> None:
    one, three = (plan_of(scheduler="none", trials=10, seeds=seeds) for seeds in (1, 3))
    assert "10, random search, each from 3 seeds" in three
    passes = [float(re.findall(r"passes +([0-9.]+)", text)[0]) for text in (one, three)]
    assert passes[1] == pytest.approx(3 * passes[0], rel=0.05)


def test_the_plan_says_which_teachers_of_the_pool_teach_a_trial() -> None:
    first, turns = "pairs members with teachers takes the pool's first ones", "by the whole pool, in turn"
    rotating = "distillation.assignment=rotating"
    either = Space(
        name="either",
        description="both assignments",
        domains={"distillation.assignment": Choice(choice=("fixed", "rotating"), reason="a test")},
    )
    assert [text in plan_of() for text in (first, turns)] == [True, False]
    assert [text in plan_of([rotating]) for text in (first, turns)] == [False, True]
    assert [text in plan_of(space=either) for text in (first, turns)] == [True, True]

"""What cannot work together is refused with its reason; what can is priced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from training_runs import a_description

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, load_experiment
from orchestrator.planning.capacity import Capacity, Node
from orchestrator.tuning.capacity import trials_at_once
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.names import SchedulerName
from orchestrator.tuning.plan import search_lines
from orchestrator.tuning.pool import baseline_values, pool_experiment
from orchestrator.tuning.request import SearchRequest, check_request, longest_warmup, most_trials
from orchestrator.tuning.schedulers import HANDFUL, Stopping, build_scheduler, stopping
from orchestrator.tuning.search import trial_resources
from orchestrator.tuning.searchers import build_searcher
from orchestrator.tuning.space import Space, load_space


def request(**options: Any) -> SearchRequest:
    return SearchRequest.model_validate({"space": load_space("student"), **options})


def check(asked: SearchRequest, experiment: Experiment) -> None:
    check_request(asked, experiment, baseline_values(experiment, asked.space.domains))


@pytest.mark.parametrize(
    ("options", "overrides", "complaint"),
    [
        ({"searcher": "pareto"}, [], "add --scheduler none"),
        ({"searcher": "grid", "trials": 29}, [], "are 28 trials"),
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
        check(request(**options), load_experiment("digits", overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ({}, []),
        ({"scheduler": "median", "searcher": "optuna", "seeds": 3}, []),
        ({"scheduler": "none", "searcher": "pareto"}, []),
        ({"searcher": "grid", "trials": 28}, []),
        ({}, ["cluster.gpus_per_worker=0.25"]),
        ({}, ["student.architecture.pruned=0.25"]),
        ({}, ["cluster.workers_per_run=2", "cluster.gpus_per_worker=1"]),
    ],
)
def test_what_can_work_together_is_accepted(options: dict[str, Any], overrides: list[str]) -> None:
    check(request(**options), load_experiment("digits", overrides))


def test_a_grid_is_run_whole_with_the_experiment_as_it_stands_which_may_be_one_of_its_points() -> None:
    space = load_space("student")
    standing = {"distillation.temperature": 4.0, "student.members": 4, "perturbation.strength": 1.0}
    assert most_trials(space, standing) == 28
    on_the_grid = standing | {"perturbation.strength": 2.0}
    assert most_trials(space, on_the_grid) == 27
    for baseline, trials in ((standing, 28), (on_the_grid, 27)):
        searcher = build_searcher(request(searcher="grid", trials=trials), 0, baseline)
        tried = [searcher.suggest(number) for number in range(trials)]
        assert tried[0] == baseline
        assert len({str(values) for values in tried}) == trials
        assert searcher.suggest(trials) is None


def test_the_run_id_depends_on_what_is_searched_and_not_on_budgets() -> None:
    digits = load_experiment("digits")
    plain = request().default_run_id(digits)
    assert plain == request(time_budget_s=60, max_concurrent=1).default_run_id(digits)
    others = [{"trials": 25}, {"seeds": 2}, {"searcher": "optuna"}, {"scheduler": "none"}]
    ids = {request(**changes).default_run_id(digits) for changes in others}
    assert len(ids | {plain}) == 5
    assert plain != request().default_run_id(load_experiment("digits", ["seed=1"]))


def stops(trials: int, scheduler: SchedulerName = "asha", **training: Any) -> Stopping:
    """Of digits with a training of 100 epochs, validated after each, without warm-up."""
    settings = {"epochs": 100, "evaluate_every": 1, "schedule.warmup_epochs": 0} | training
    overrides = [f"student.training.{key}={value}" for key, value in settings.items()]
    return stopping(request(trials=trials, scheduler=scheduler), load_experiment("digits", overrides))


@pytest.mark.parametrize(
    ("trials", "training", "rungs"),
    [
        (4, {}, []),  # none to spare
        (5, {}, []),
        (10, {}, [50]),  # half of ten go on
        (24, {}, [21]),  # 5 of 24
        (45, {}, [12, 36]),  # a third of a third
        (135, {}, [4, 12, 36]),
        (135, {"schedule.warmup_epochs": 5}, [6, 18, 54]),  # nobody is judged before it is over
        (135, {"evaluate_every": 10}, [10, 30, 90]),
        (24, {"epochs": 1}, []),
    ],
)
def test_asha_leaves_a_handful_to_train_in_full(trials, training, rungs) -> None:
    found = stops(trials, **training)
    assert found.rungs == pytest.approx(rungs)
    assert round(found.expected()[1]) >= min(trials, HANDFUL)


def test_where_fewer_than_a_handful_train_in_full_it_is_said_with_what_to_choose() -> None:
    assert [stops(trials).doubt("random") for trials in (5, 9, 24, 100)] == [None] * 4
    assert "about 4 of 4 trials" in stops(4).doubt("random")
    assert "--trials 5 or more" in stops(4).doubt("random")
    assert "--scheduler none" in stops(6, "median").doubt("random")
    assert stops(6, "none").doubt("random") is None
    assert stops(2, "none").doubt("grid") is None  # all that there is


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


@pytest.mark.parametrize("trials", [6, 9, 24, 45, 135, 1000])
def test_asha_has_the_rungs_that_ray_has(trials: int) -> None:
    built = build_scheduler(stops(trials))
    theirs = sorted(milestone for milestone, _ in built._brackets[0]._rungs)
    assert stops(trials).rungs == pytest.approx([m for m in theirs if m < 100])


class Waiting:
    """A trial that has not begun."""

    status = "PENDING"

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)
        self.config = {"number": number}


@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_no_scheduler_pauses_a_trial_for_those_that_wait(scheduler: str) -> None:
    from ray.tune.schedulers import TrialScheduler

    built = build_scheduler(Stopping(scheduler, 45, 9, 1, 3.0))
    trials = [Waiting(number) for number in range(6)]
    controller = SimpleNamespace(get_live_trials=lambda: trials)
    decisions = {trial.trial_id: set() for trial in trials}
    for trial in reversed(trials):  # trial 0 is the last, and the worst
        built.on_trial_add(controller, trial)
        for epoch in range(1, 9):
            score = int(trial.trial_id) / (epoch + 2)
            made = built.on_trial_result(controller, trial, {"epoch": epoch, "score": score})
            decisions[trial.trial_id].add(made)
            if made == TrialScheduler.STOP:
                break
    assert set.union(*decisions.values()) <= {TrialScheduler.CONTINUE, TrialScheduler.STOP}
    assert decisions["0"] == {TrialScheduler.CONTINUE}  # it is trained in full
    assert (TrialScheduler.STOP in decisions["1"]) == (scheduler != "none")


def test_early_stopping_is_expected_to_save_about_what_successive_halving_does() -> None:
    assert stops(24, "none").expected() == (1, 24)
    share, finished = Stopping("asha", 300, 100, 4, 3.0).expected()
    # A third passes each of the rungs at 4, 12, 36: 0.04 + 0.08/3 + 0.24/9 + 0.64/27.
    assert share == pytest.approx(0.117, abs=0.03)
    assert 300 / 27 < finished < 30  # those that come first have few to be compared with
    assert share < stops(24).expected()[0] < 0.5


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
    assert "rungs after epochs 22 of 100, each passed by 1 in 4.8" in text
    assert "trial 0 is the experiment as it stands" in text
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

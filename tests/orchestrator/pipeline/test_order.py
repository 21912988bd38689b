"""The table of the order of work: what a stage needs comes before it, and nothing trains too early."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch
from training_runs import a_description

from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import TrainingRun
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.order import ORDER, SEARCH, stages_of, training_runs
from orchestrator.pipeline.pipeline import WORK, _plan_training
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.train import train
from orchestrator.planning.capacity import HERE, Capacity, Node
from orchestrator.runtime.event import Done, Event
from orchestrator.runtime.worker_pool import groups_for
from orchestrator.storage import open_storage
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.pool import same_in_all_trials
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.space import Space

NAMES = [stage.name for stage in ORDER]
PRUNED = ["student.architecture={name: resnet, depth: 8, pruned: 0.25}"]


def test_a_run_with_a_search_has_one_stage_more():
    run, tune = ([s.name for s in stages_of(searched=searched)] for searched in (False, True))
    assert run == ["prepare", "teachers", "control", "distil", "average", "evaluate", "register", "report"]
    assert [name for name in tune if name not in run] == [SEARCH]


def test_a_stage_either_trains_or_does_something_else():
    trains = {stage.name for stage in ORDER if stage.trains(load_experiment("digits"))}
    assert trains | WORK.keys() == set(NAMES)
    assert not trains & WORK.keys()


def test_what_a_stage_needs_comes_before_it():
    for index, stage in enumerate(ORDER):
        assert set(stage.needs) <= set(NAMES[:index])
        assert stage.makes


@pytest.mark.parametrize("changes", [[], PRUNED])
def test_every_network_that_a_training_run_needs_is_trained_by_a_stage_that_its_stage_needs(changes):
    experiment = load_experiment("digits", changes)
    of = {stage.name: stage.trains(experiment) for stage in ORDER}
    for stage in ORDER:
        made = [run for need in stage.needs for run in of[need]]
        for run in of[stage.name]:
            assert all(other in made for other in run.needs)
    names = [run.name for run in training_runs(experiment)]
    assert names == [
        *(f"teacher-{i}" for i in range(4)),
        *(["unpruned"] if changes else []),
        "control",
        "student",
    ]


@pytest.mark.parametrize(
    ("key", "early"),
    [
        ("distillation.temperature", True),
        ("student.members", True),
        ("student.training.learning_rate", False),
        ("student.architecture.width", False),
    ],
)
def test_the_control_is_trained_before_a_search_that_does_not_change_it(key, early):
    experiment = load_experiment("digits")
    assert same_in_all_trials(experiment.control_run(), [key]) is early
    assert all(same_in_all_trials(run, [key]) for run in experiment.teacher_runs())
    assert not same_in_all_trials(experiment.student_run(), [key])


class Workers:
    """Takes jobs; `finish` says that one is done."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.queued: list[str] = []

    def add(self, jobs: list[TrainingRun]) -> None:
        self.queued += [job.name for job in jobs]

    def finish(self, name: str) -> None:
        self.context._handle(Done(run=name, record=NetworkRecord(identity=name)))


@pytest.fixture
def planned(tmp_path):
    """A function: the workers of a run with these settings, all of whose training runs are planned."""

    views: list[View] = []

    def plan(*changes: str, run_id: str = "mine") -> Workers:
        views.append(view := View())
        experiment = load_experiment("digits", ["teachers.count=2", "student.members=2", *changes])
        storage = open_storage(str(tmp_path)).child(run_id)
        checked = cast(
            Any,
            SimpleNamespace(
                run_id=run_id, storage=storage, experiment=experiment, description=a_description()
            ),
        )
        context = RunContext(checked, cast(Any, None), view, tmp_path)
        workers = Workers(context)
        context._workers, context._groups = cast(Any, workers), 1
        context._capacity = Capacity((Node(1),), "a test")
        context.tracker_ = cast(Any, SimpleNamespace(show=lambda runs: None))
        context.plan(training_runs(experiment))
        return workers

    yield plan
    for view in views:
        view.stop()  # else it says what later tests wait for


def test_the_control_is_queued_behind_the_teachers_and_the_student_when_they_are_done(planned):
    workers = planned()
    assert workers.queued == ["teacher-0", "teacher-1", "control"]
    workers.finish("teacher-1")
    workers.finish("control")
    assert workers.queued[3:] == []
    workers.finish("teacher-0")
    assert workers.queued[3:] == ["student"]


def test_what_another_run_has_trained_is_neither_queued_nor_waited_for(planned):
    networks = planned(run_id="first").context.networks
    experiment = load_experiment("digits", ["teachers.count=2", "student.members=2"])
    for run in (*experiment.teacher_runs(), experiment.control_run(), experiment.student_run()):
        best = {"epoch": 1.0, "averaged/accuracy": 0.5}
        record = NetworkRecord(identity=networks.identity(run), trained_by="first", best=best, seconds=9)
        networks.save(run, torch.nn.Linear(1, 1), record)
    assert planned("distillation.temperature=2").queued == ["student"]
    again = planned()
    assert again.queued == []
    made = train(again.context, [*experiment.teacher_runs(), experiment.student_run()])
    told = {name: (each.reused_from, each.train_seconds) for name, each in made.items()}
    assert told == dict.fromkeys(("teacher-0", "teacher-1", "student"), ("first", 0.0))


def test_given_teachers_are_measured_before_others_are_trained_wherever_the_list_has_them(planned):
    given = (
        "{weights: w.safetensors, weights_sha256: " + "0" * 64 + ", architecture: {name: resnet, depth: 8}}"
    )
    groups = f"teachers=[{{count: 2}}, {given}]"
    workers = planned(groups, "student.method=kd", "distillation.objective=mean_kd", "perturbation.kind=none")
    assert workers.queued == ["teacher-2", "teacher-0", "teacher-1", "control"]
    assert workers.context._planned[0].name == "student"


def test_before_a_search_what_is_stored_is_taken_and_is_no_work_that_is_left(planned):
    networks = planned(run_id="first").context.networks
    experiment = load_experiment("digits", ["teachers.count=2", "student.members=2"])
    for run in (*experiment.teacher_runs(), experiment.control_run(), experiment.student_run()):
        best = {"epoch": 1.0, "averaged/accuracy": 0.5}
        record = NetworkRecord(identity=networks.identity(run), trained_by="first", best=best)
        networks.save(run, torch.nn.Linear(1, 1), record)
    context = planned(run_id="search").context
    for planned_before in (context.view.runs, context._submitted):
        planned_before.clear()
    temperature = Choice(choice=(1.0, 2.0), reason="a test")
    space = Space(name="test", description="a test", domains={"distillation.temperature": temperature})
    context.request = SearchRequest(space=space, trials=3)
    context.manifest = cast(Any, SimpleNamespace(done=lambda stage: False, content=None))
    _plan_training(context, stages_of(searched=True))
    left = [run.name for run in context.view.runs.values() if run.status == "waiting" and run.effort]
    assert left == ["trial-0001", "trial-0002"]
    assert context.beside == []


class Pool:
    """A `WorkerPool` that does a job whenever it is polled, but while `held`."""

    made: ClassVar[list[Pool]] = []
    held = True

    def __init__(self, cluster: Cluster, *rest: Any) -> None:
        self.cluster, self.groups = cluster, 0
        self.jobs: list[TrainingRun] = []
        self.done: list[str] = []
        Pool.made.append(self)

    def start(self, capacity: Capacity, runs: int) -> int:
        self.groups = groups_for(self.cluster, capacity, runs)
        return self.groups

    def add(self, jobs: list[TrainingRun]) -> None:
        self.jobs += jobs

    def poll_events(self, timeout_s: float = 0.5) -> list[Event]:
        if Pool.held or not self.jobs:
            return []
        self.done.append(name := self.jobs.pop(0).name)
        best = {"epoch": 1.0, "averaged/accuracy": 0.5}
        return [Done(run=name, record=NetworkRecord(identity=name, trained_by="mine", best=best))]

    def close(self) -> bool:
        assert not self.jobs  # nobody would hear of them
        return True


@pytest.fixture
def last_trials(tmp_path, monkeypatch):
    """A context whose control is trained beside the last of two trials at a time, on a machine with room for
    two."""
    monkeypatch.setattr("orchestrator.runtime.worker_pool.WorkerPool", Pool)
    monkeypatch.setattr("orchestrator.pipeline.run_context.share", lambda *args: None)
    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr(Pool, "held", True)
    experiment = load_experiment("digits", ["evaluation.controls=[best_teacher, papa]"])
    checked: Any = SimpleNamespace(
        run_id="mine",
        storage=open_storage(str(tmp_path)),
        experiment=experiment,
        description=a_description(),
        dataset=None,
    )
    context = RunContext(checked, cast(Any, None), View(), tmp_path)
    context.tracker_ = cast(Any, SimpleNamespace(show=lambda runs: None, flush=lambda: None))
    context._capacity = Capacity((Node(2),), HERE)
    for run in experiment.teacher_runs():
        context.records[run.name] = cast(Any, run)
    context.view.at_once, context.beside = 2, [experiment.control_run()]
    context.work_beside()
    assert [pool.groups for pool in Pool.made] == [1]
    assert context.view.at_once == 2  # a trial and the control
    context.trials_are_over()
    assert context.view.at_once == 1
    return context


def test_after_a_search_worker_groups_are_as_many_as_what_is_left_can_use(last_trials):
    runs = [run for run in training_runs(last_trials.checked.experiment) if run.role == "student"]
    assert len(runs) == 3
    Pool.held = False
    last_trials.plan(runs)
    first, second = Pool.made
    assert first.done == ["control"]  # it was in progress
    assert (second.groups, last_trials.view.at_once) == (2, 2)
    last_trials.wait(runs)
    assert sorted(second.done) == sorted(run.name for run in runs)


def test_a_single_run_after_a_search_takes_the_worker_group_that_is_there(last_trials):
    Pool.held = False
    last_trials.wait([last_trials.checked.experiment.student_run()])
    (only,) = Pool.made
    assert only.done == ["control", "student"]
    assert last_trials.view.at_once == 1


def test_a_pruned_control_waits_for_the_network_that_it_starts_from(planned):
    workers = planned(*PRUNED)
    assert workers.queued == ["teacher-0", "teacher-1", "unpruned"]
    workers.finish("unpruned")
    assert workers.queued[3:] == ["control"]


def test_a_job_is_queued_again_only_if_its_settings_are_others(planned):
    workers = planned()
    context, (control,) = workers.context, ORDER[3].trains(load_experiment("digits"))
    context.submit([control])
    assert workers.queued.count("control") == 1
    workers.finish("control")
    context.submit([control.model_copy(update={"seed": 5})])
    assert workers.queued.count("control") == 2
    assert "control" not in context.records


def test_further_controls_are_trained_with_the_control_where_they_are_asked_for():
    perturbed = "perturbation.kind=tdiv_sdiv"
    asked = load_experiment("digits", ["evaluation.controls=[best_teacher, papa]", perturbed])
    usual = load_experiment("digits", [perturbed])
    runs = {run.name: run for run in training_runs(asked)}
    assert [name for name in runs if name.startswith("control")] == [
        *("control", "control-best_teacher", "control-papa")
    ]
    best, papa = runs["control-best_teacher"], runs["control-papa"]
    assert (best.student.method, best.best_teacher_only, best.teachers) == ("kd", True, asked.teacher_runs())
    assert (papa.student.method, papa.teachers, papa.student.members) == ("papa", (), 4)
    assert best.perturbation.kind == papa.perturbation.kind == "none"
    assert not any(same_in_all_trials(run, ()) for run in (best, papa))  # a search may change all of them
    # What all other networks are known by is as without them.
    assert [run for run in training_runs(asked) if run not in (best, papa)] == list(training_runs(usual))

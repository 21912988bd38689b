"""Trials: the same training as `train`, moved on one validated epoch at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import SlowStore, networks_in

from ekd_train.data import describe, load_dataset
from ekd_train.data.tensors import place
from ekd_train.distributed import Workers
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.persistence.networks import Networks
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import TrialStep
from ekd_train.training.loop import Loop, train
from ekd_train.training.reporter import Silent
from ekd_train.workers.jobs import execute
from ekd_train.workers.trial_runner import TrialRunner, checkpoint_prefix, network_arrays, summarise
from orchestrator.experiment.schema import Experiment, load_experiment
from orchestrator.storage import Storage, open_storage

TINY = {
    "data.train_size": 40,
    "data.validation_size": 60,
    "data.test_size": 20,
    "teachers.count": 2,
    "teachers.training.epochs": 1,
    "teachers.training.batch_size": 20,
    "student.members": 2,
    "student.training.epochs": 4,
    "student.training.batch_size": 20,
    "student.training.evaluate_every": 1,
    "student.training.checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment("digits", [f"{key}={value}" for key, value in TINY.items()])


@pytest.fixture(scope="module")
def world(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data on its device, and a store with the finished teachers."""
    torch.set_num_threads(1)
    dataset = load_dataset(experiment.data)
    description = describe(dataset)
    data = place(dataset, torch.device("cpu"))
    store = open_storage(str(tmp_path_factory.mktemp("pool")))
    for teacher in experiment.teacher_runs():
        execute(teacher, data, networks_in(store, description), Silent(), Workers())
    return {"data": data.training, "description": description, "store": store}


def runner(world: dict[str, Any], **changes: Any) -> TrialRunner:
    given = world | changes
    return TrialRunner(given["data"], networks_of(given), arrays=given.get("arrays"))


def networks_of(world: dict[str, Any]) -> Networks:
    return networks_in(world["store"], world["description"])


def copy_of(world: dict[str, Any], folder: Path) -> Storage:
    """The store with the teachers, without any trial."""
    copy = open_storage(str(folder))
    for key in world["store"].list():
        copy.write(key, world["store"].read(key))
    return copy


def walk(made: TrialRunner, step: TrialStep, until: float = 99) -> list[dict[str, float]]:
    records: list[dict[str, float]] = []
    while not records or (not records[-1]["finished"] and records[-1]["epoch"] < until):
        after = int(records[-1]["epoch"]) if records else 0
        records.append(made.step(step.model_copy(update={"after": after}), Silent()))
    for record in records:
        assert record.pop("seconds") >= 0  # which no two starts have alike
    return records


@pytest.fixture
def step(experiment: Experiment) -> TrialStep:
    return TrialStep(name="trial-0000", runs=(experiment.student_run(),), after=0)


@pytest.mark.slow
def test_a_trial_is_the_training_run_bit_for_bit(
    world: dict[str, Any], step: TrialStep, tmp_path: Path
) -> None:
    (run,) = step.runs
    store = copy_of(world, tmp_path)
    records = walk(runner(world, store=store), step)
    alone = open_storage(str(tmp_path / "alone"))
    made = runner(world, store=store)
    trained = train(
        run,
        world["data"],
        checkpoints=Checkpoints(alone, "checkpoints/student", "x"),
        reporter=Silent(),
        teachers=made._taught_by(run),
    )
    assert [r["train/loss"] for r in records] == [r["train/loss"] for r in trained.history]
    assert records[-1]["score"] == max(r["averaged/accuracy"] for r in trained.history)
    key = networks_of(world).identity(run)
    stored = Checkpoints(store, checkpoint_prefix("trial-0000", 0), key).newest()
    assert stored is not None
    for name, value in trained.network.state_dict().items():
        torch.testing.assert_close(stored.best[name], value, rtol=0, atol=0)


def test_trials_of_a_machine_read_one_copy_of_their_teachers_predictions(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = copy_of(world, tmp_path / "store")
    for number, temperature in enumerate((2, 4)):
        changes = TINY | {
            "perturbation.kind": "none",
            "data.augmentation": "{crop_padding: 0, flip: false}",
            "distillation.temperature": temperature,
        }
        run = load_experiment("digits", [f"{key}={value}" for key, value in changes.items()]).student_run()
        step = TrialStep(name=f"trial-000{number}", runs=(run,), after=0)
        runner(world, store=store).step(step, Silent())
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


@pytest.mark.slow
def test_an_interrupted_trial_continues_from_its_checkpoint_and_ends_alike(
    world: dict[str, Any], step: TrialStep, tmp_path: Path
) -> None:
    whole = walk(runner(world, store=copy_of(world, tmp_path / "a")), step)
    store = copy_of(world, tmp_path / "b")
    walk(runner(world, store=store), step, until=2)
    again = runner(world, store=store)
    records = walk(again, step)
    assert records == whole


def test_what_a_trial_has_done_is_stored_when_it_says_so(world: dict[str, Any], step: TrialStep) -> None:
    store = SlowStore({key: world["store"].read(key) for key in world["store"].list()})
    epoch = int(runner(world, store=store).step(step, Silent())["epoch"])
    assert f"{checkpoint_prefix('trial-0000', 0)}/epoch-{epoch:05d}.json" in store.objects


def test_what_was_trained_before_is_reported_without_training(
    world: dict[str, Any], step: TrialStep, tmp_path: Path
) -> None:
    store = copy_of(world, tmp_path)
    walk(runner(world, store=store), step)
    loops = runner(world, store=store)
    first = loops.step(step, Silent())
    assert first["epoch"] == 1
    assert not first["finished"]
    assert isinstance(loops._trained[0], NetworkRecord)


def test_a_trials_seconds_are_those_of_all_its_starts_and_none_of_what_others_trained(
    world: dict[str, Any], step: TrialStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    train_epoch = Loop._train_epoch

    def in_ten_seconds(loop: Loop, epoch: int) -> dict[str, float]:
        clock[0] += 10
        return train_epoch(loop, epoch)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Loop, "_train_epoch", in_ten_seconds)
    store = copy_of(world, tmp_path)

    def seconds(trial: str, *after: int) -> list[float]:
        made, found = runner(world, store=store), []
        for epoch in after:
            clock[0] += 1000  # a process starts; the driver decides
            asked = step.model_copy(update={"name": trial, "after": epoch})
            found.append(made.step(asked, Silent())["seconds"])
        return found

    assert seconds("trial-0000", 0, 1) == [10, 20]
    assert seconds("trial-0000", 0, 1, 2, 3) == [20, 20, 30, 40]
    assert seconds("trial-0000", 0, 3) == [40, 40]
    assert seconds("trial-0001", 0, 3) == [0, 0]


def test_a_student_that_was_trained_in_full_is_found_by_every_run_and_trial(
    world: dict[str, Any], step: TrialStep, tmp_path: Path
) -> None:
    """Also by a trial of another search, whose driver sees the same records as if it had trained it."""
    (run,) = step.runs
    store = copy_of(world, tmp_path)
    records = walk(runner(world, store=store), step)
    networks = networks_in(store, world["description"])
    trained = networks.find(run)
    assert trained is not None
    assert trained.trained_by == "alone/trial-0000"
    store.delete_prefix("trials")
    other = step.model_copy(update={"name": "trial-0007"})
    assert walk(runner(world, store=store), other) == records
    assert store.list("trials") == ["trials/trial-0007/seed-0/network.json"]


@pytest.mark.slow
def test_several_seeds_are_compared_by_their_mean(
    world: dict[str, Any], step: TrialStep, tmp_path: Path
) -> None:
    (run,) = step.runs
    runs = tuple(run.model_copy(update={"seed": seed}) for seed in (0, 1))
    alone = [
        walk(runner(world, store=copy_of(world, tmp_path / f"{i}")), step.model_copy(update={"runs": (r,)}))
        for i, r in enumerate(runs)
    ]
    together = step.model_copy(update={"runs": runs})
    both = walk(runner(world, store=copy_of(world, tmp_path / "both")), together)
    for mean, one, two in zip(both, *alone, strict=True):
        assert mean["score"] == pytest.approx((one["score"] + two["score"]) / 2)
        assert (mean["seeds/0/score"], mean["seeds/1/score"]) == (one["score"], two["score"])
        assert mean["train/loss"] == pytest.approx((one["train/loss"] + two["train/loss"]) / 2)


def test_teachers_are_the_shared_memory_itself(
    world: dict[str, Any], experiment: Experiment, tmp_path: Path
) -> None:
    teachers = experiment.teacher_runs()
    loaded = {run.name: networks_of(world).load(run) for run in teachers}
    arrays = network_arrays(loaded)
    empty = open_storage(str(tmp_path))
    taught = runner(world, store=empty, arrays=arrays)._taught_by(experiment.student_run())
    assert taught is not None
    images = torch.rand(3, 1, 8, 8)
    for teacher, run in zip(taught, teachers, strict=True):
        for key, value in teacher.state_dict().items():
            assert np.shares_memory(value.numpy(), arrays[f"networks/{run.name}/{key}"])
        torch.testing.assert_close(teacher(images), loaded[run.name](images), rtol=0, atol=0)


def test_in_rotation_every_member_learns_from_every_teacher(world: dict[str, Any], tmp_path: Path) -> None:
    overrides = [f"{key}={value}" for key, value in (TINY | {"teachers.count": 3}).items()]
    run = load_experiment("digits", [*overrides, "distillation.assignment=rotating"]).student_run()
    teachers = Teachers([torch.nn.Identity() for _ in run.teachers])
    loop = Loop(
        run, world["data"], Checkpoints(open_storage(str(tmp_path)), "c", "x"), Silent(), Workers(), teachers
    )
    seen = [[list(teachers).index(t) for t in loop.batches.teachers_at(step) or ()] for step in range(4)]
    assert seen == [[0, 1], [1, 2], [2, 0], [0, 1]]


def test_with_as_many_members_as_teachers_the_first_step_of_a_rotation_is_the_fixed_one(
    world: dict[str, Any], experiment: Experiment, tmp_path: Path
) -> None:
    losses = {}
    for assignment in ("fixed", "rotating"):
        overrides = [f"{key}={value}" for key, value in TINY.items()]
        run = load_experiment("digits", [*overrides, f"distillation.assignment={assignment}"]).student_run()
        checkpoints = Checkpoints(open_storage(str(tmp_path / assignment)), "c", "x")
        taught = runner(world)._taught_by(run)
        loop = Loop(run, world["data"], checkpoints, Silent(), Workers(), taught)
        losses[assignment] = float(loop.step(loop.batches.draw(0, torch.arange(20)))["loss"])
    assert losses["fixed"] == losses["rotating"]


@pytest.mark.parametrize(("by", "score", "nll"), [("averaged", 0.5, 2.0), ("members", 0.9, 1.0)])
def test_a_trial_is_judged_by_that_which_its_student_is_selected_by(by, score, nll):
    quality = {"averaged/accuracy": 0.5, "averaged/nll": 2.0, "members/accuracy": 0.9, "members/nll": 1.0}
    record = summarise([[{"epoch": 1.0, **quality}]], 4, by)
    assert (record["score"], record["score_nll"]) == (score, nll)

"""Costs counted by hand, and a table that fits a page."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from training_runs import a_description

from ekd_train.data.description import DataDescription
from ekd_train.persistence.records import NetworkRecord
from orchestrator.experiment.packaged import packaged_experiments
from orchestrator.experiment.schema import Experiment, build_experiment, load_experiment
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.summary import compact
from orchestrator.planning.capacity import Capacity, Node
from orchestrator.planning.plan import (
    PlannedRun,
    architecture_name,
    passes,
    planned_runs,
    runs_table,
    total_line,
    workers_lines,
)
from orchestrator.storage import open_storage

SHAPES = {"digits": (1, 8), "fashion_mnist": (1, 28), "tiny_imagenet": (3, 64), "image_folder": (3, 224)}


def student_passes(**changes: object) -> float:
    experiment = build_experiment({"name": "x", **changes})
    return passes(experiment.student_run()).total


def described(experiment: Experiment, train: int = 1280) -> DataDescription:
    channels, size = SHAPES.get(experiment.data.name, (3, 32))
    statistics = {"mean": [0.5] * channels, "std": [0.2] * channels}
    return a_description(train=train, num_classes=10, image_shape=(channels, size, size), **statistics)


@pytest.mark.parametrize(
    ("kind", "counted"),
    [
        # 4 teachers forward + 4 members forward and backward (1 + 2 each).
        ("none", 4 + 4 * 3),
        ("gaussian", 4 + 4 * 3),
        # one teacher forward, and backward to the pixels.
        ("ods", 16 + 2),
        ("conf_ods", 16 + 2),
        # teachers i and j forward, and backward to the pixels through i alone.
        ("tdiv", 16 + 3),
        # the same again for members i and j of the student.
        ("tdiv_sdiv", 16 + 3 + 3),
    ],
)
def test_passes_of_a_latent_be_student_of_four(kind, counted):
    assert student_passes(perturbation={"kind": kind}) == counted


def test_a_perturbed_step_costs_less_than_evaluating_every_network_for_it():
    """The authors' released code evaluates and differentiates all 4 + 4 for the perturbation: 16 more."""
    assert student_passes(perturbation={"kind": "tdiv_sdiv"}) == 22 < 16 + 2 * 8


@pytest.mark.parametrize(
    ("kind", "alpha", "counted"), [("conf_ods", 0.9, 18 + 12), ("conf_ods", 1, 18), ("none", 0.9, 16)]
)
def test_labels_on_clean_images_cost_a_student_more_where_others_are_perturbed(kind, alpha, counted):
    changes = {"student": {"method": "batch_ensemble"}, "distillation": {"alpha": alpha}}
    assert student_passes(perturbation={"kind": kind}, **changes) == counted


def test_no_strength_costs_nothing():
    assert student_passes(perturbation={"kind": "tdiv_sdiv", "strength": 0}) == 16


def test_a_plain_student_is_one_network():
    assert student_passes(student={"method": "kd"}) == 4 + 3


def test_rotating_members_ask_as_many_teachers_as_there_are_members():
    changes = {
        "teachers": {"count": 8},
        "student": {"members": 2},
        "distillation": {"assignment": "rotating"},
    }
    assert student_passes(**changes) == 2 + 2 * 3


def test_what_is_computed_again_costs_another_forward_of_what_learns():
    changes = {"student": {"training": {"speed": {"checkpoint_activations": True}}}}
    assert student_passes(**changes) == 4 + 4 * 4


def test_a_teacher_is_a_forward_and_a_backward():
    assert passes(load_experiment("digits").teacher_runs()[0]).total == 3


def test_flops_are_passes_times_steps_times_batch_times_macs():
    experiment = load_experiment("digits")
    planned = planned_runs(experiment, described(experiment, train=300))
    teacher, student = planned[0], planned[-1]
    assert teacher.steps == 200 * (300 // 64)
    assert teacher.flops == pytest.approx(2 * 3 * 800 * 64 * 193_344, rel=0.01)  # 193 k MACs an image
    assert student.flops == pytest.approx(teacher.flops * 22 / 3)


def test_what_another_run_has_trained_costs_nothing(tmp_path):
    experiment = load_experiment("digits")
    description, storage = described(experiment), open_storage(str(tmp_path))
    first, second = (networks_of(storage.child(name), name, experiment, description) for name in "ab")
    teacher, control = experiment.teacher_runs()[0], experiment.control_run()
    for run, network in ((teacher, torch.nn.Linear(1, 1)), (control, torch.nn.Linear(1, 2))):
        made = first.save(run, network, NetworkRecord(identity=first.identity(run), trained_by="a"))
    storage.write(f"networks/{made.sha256}.safetensors", b"cut")
    said: list[str] = []
    planned = planned_runs(experiment, description, second, said.append)
    assert {item.run.name: item.stored for item in planned if item.stored} == {"teacher-0": "reused"}
    assert next(iter(runs_table(planned).columns[-1].cells)) == "reused"
    assert planned[0].flops == 0
    assert [line.partition(":")[0] for line in said] == ["control"]
    assert planned_runs(experiment, description, first)[0].stored == "trained"


@pytest.mark.parametrize("name", packaged_experiments())
def test_the_plan_fits_a_terminal_and_cuts_nothing(name):
    experiment = load_experiment(name)
    planned = planned_runs(experiment, described(experiment))
    console = Console(width=80, record=True, force_terminal=False, quiet=False)
    with console.capture() as captured:
        console.print(runs_table(planned))
    table = captured.get()
    capacity = Capacity((Node(64, 8), Node(64, 8)), "10.0.0.1:6379")
    assert max(map(len, workers_lines(experiment, capacity))) <= 100
    assert max(map(len, [*table.splitlines(), *total_line(planned).split("\n")])) <= 80
    assert "…" not in table
    for item in planned:
        row = next(line for line in table.splitlines() if line.startswith(f"{item.run.name} "))
        given = item.run.role == "given"
        assert row.rstrip().endswith(" given" if given else f" {compact(item.flops)}")
        assert compact(item.params) in row
        assert given or f" {item.run.training.learning_rate:g} " in row


def test_what_takes_hours_of_a_gpu_is_told_in_hours():
    run = build_experiment({"name": "x"}).control_run()
    small, large = (PlannedRun(run, 1, 1, 1, flops) for flops in (1e15, 3.6e20))
    assert "GPU hours" not in total_line([small])
    assert ": 1,000 GPU hours at 100 TFLOP/s" in total_line([large])


def test_workers_are_told_with_their_resources():
    experiment = build_experiment(
        {"name": "x", "cluster": {"workers_per_run": [1, 4], "cpus_per_worker": 2, "gpus_per_worker": 1}}
    )
    first, _ = workers_lines(experiment, Capacity((Node(16, 4),), "here"))
    assert "1 to 4 workers of 2 CPUs and 1 GPU per run, 1 run side by side" in first


def test_a_pruned_student_is_planned_with_the_unpruned_network_and_its_own_smaller_size():
    pruned = ["student.architecture={name: resnet, depth: 8, stem_channels: 16, pruned: 0.5}"]
    half = ["student.architecture={name: resnet, depth: 8, stem_channels: 8}"]
    experiment = load_experiment("digits", pruned)
    planned = {item.run.name: item for item in planned_runs(experiment, described(experiment))}
    halved = planned_runs(load_experiment("digits", half), described(experiment))
    assert list(planned)[4:] == ["unpruned", "control", "student"]
    # Half of the channels of every layer is the architecture of half the channels.
    assert [planned[name].params for name in ("control", "student")] == [item.params for item in halved[4:]]
    assert [planned[name].flops for name in ("control", "student")] == [item.flops for item in halved[4:]]
    assert 3.5 < planned["unpruned"].flops / planned["control"].flops < 4
    assert architecture_name(planned["student"].run) == "ResNet-8 less 50 % latent_be x4"

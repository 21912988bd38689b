"""Every packaged experiment can be read, planned on files in its format, and made small."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import data_files
import pytest
import torch
from smoke_runs import run_smoke

from ekd_train.data.tensors import place
from ekd_train.distributed import Workers
from ekd_train.models.build_network import averaged
from ekd_train.persistence.networks import save_average
from ekd_train.persistence.predictions import load_predictions
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import (
    Architecture,
    Augmentation,
    Distillation,
    Evaluation,
    Schedule,
    Speed,
    Training,
)
from ekd_train.training.reporter import Silent
from ekd_train.workers.jobs import execute
from orchestrator.experiment.packaged import PACKAGED, packaged_experiments
from orchestrator.experiment.schema import build_experiment, load_experiment
from orchestrator.experiment.smoke import CLASSES, make_small, one_small_worker
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.order import training_runs
from orchestrator.pipeline.stages.evaluate import measure
from orchestrator.planning.plan import passes, planned_runs
from orchestrator.planning.preflight import check

NAMES = packaged_experiments()
QUICK = ("digits", "fashion_mnist", "image_folder")
"""Those whose networks `make check` builds."""
THROUGH_RAY = ("digits", "fashion_mnist")
"""Those that a whole `ekd run` is started for; of the others the same jobs are done in this process."""
PER_CLASS = {"fashion_mnist": 20, "cifar10": 20, "cifar100": 6, "tiny_imagenet": 4, "image_folder": 25}
"""Images of each class a file or split: enough for what a smoke run takes."""


def test_the_contract_names_are_packaged():
    assert set(NAMES) == {
        *("digits", "fashion_mnist", "cifar10", "cifar100_latentbe", "cifar100_conf_ods", "cifar10_ekd"),
        *("tiny_imagenet", "image_folder", "vit_fine_tune", "imagenet_meal_v2", "imagenet_funmatch"),
        *("imagenet_adlik_25", "imagenet_adlik_375", "imagenet_adlik_50"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_its_file_names_it(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    assert len(experiment.description.split()) > 8
    assert build_experiment(experiment.resolved()) == experiment


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The overrides with which an experiment finds tiny files in its format and a place of its own."""
    monkeypatch.setattr("orchestrator.runtime.address.note_of_ray_start", lambda: tmp_path / "no cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def overrides(name: str) -> list[str]:
        data = load_experiment(name).data.name
        found = [f"storage.uri={tmp_path / 'runs'}"]
        if data in data_files.NEEDS:
            (tmp_path / "data").mkdir()
            found.append(f"data.root={data_files.write(data, tmp_path / 'data', PER_CLASS[data])}")
        return found

    return overrides


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_made_small_it_passes_every_check_and_can_be_planned(name, small):
    experiment = make_small(load_experiment(name, small(name)))
    experiment = experiment.model_copy(update={"cluster": one_small_worker(experiment.cluster)})
    checked = check(experiment)
    assert checked.run_id.startswith(f"{name}-smoke-")
    planned = planned_runs(experiment, checked.description)
    assert len(planned) == len(training_runs(experiment))
    assert all(item.steps > 0 and item.params > 0 and item.flops > 0 for item in planned)


def test_cifar100_latentbe_is_the_published_recipe():
    """Nam et al., ICML 2022, as their released code has it."""
    experiment = load_experiment("cifar100_latentbe")
    recipe = Training(
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        schedule=Schedule(kind="cosine", warmup_epochs=5, warmup_start=0),
        batch_norm="per_worker",
        evaluate_every=1,
        checkpoint_every=1,
        speed=Speed(precision="float32"),
    )
    assert experiment.data.name == "cifar100"
    assert (experiment.data.validation_size, experiment.data.test_size) == (5000, None)
    assert (experiment.data.train_size, experiment.data.train_fraction) == (None, 1)
    assert experiment.data.augmentation == Augmentation(crop_padding=4, flip=True)
    (teachers,) = experiment.teachers
    assert (teachers.count, teachers.training) == (4, recipe)
    assert teachers.architecture == Architecture(name="wide_resnet", depth=28, width=4, stem_channels=16)
    student = experiment.student
    assert (student.method, student.members, student.select_by) == ("latent_be", 4, "averaged")
    assert (student.architecture, student.training) == (teachers.architecture, recipe)
    assert student.factors.model_dump() == {
        **{"init": "ones", "gradient_scale": "members", "decay": "toward_one", "member_bias": False},
        **{"learning_rate_multiplier": 1, "warmup_epochs": 0, "init_std": 0.5},
    }
    assert experiment.distillation == Distillation(objective="auto", temperature=4, alpha=1)
    assert (experiment.perturbation.kind, experiment.perturbation.strength) == ("tdiv_sdiv", 1)
    assert experiment.cluster.workers_per_run == 1  # batch statistics of the whole batch
    assert passes(experiment.student_run()).total == 22


def test_cifar100_conf_ods_is_the_published_recipe():
    """Nam et al., NeurIPS 2021; its published schedule is for batches of 64 over 300 epochs."""
    experiment = load_experiment("cifar100_conf_ods")
    (teachers,) = experiment.teachers
    student = experiment.student
    assert teachers.count == 4
    assert {one.training.speed.precision for one in (teachers, student)} == {"float32"}
    assert teachers.architecture == Architecture(name="wide_resnet", depth=28, width=10)
    assert student.architecture == teachers.architecture
    assert (student.method, student.members, student.select_by) == ("batch_ensemble", 4, "members")
    training = student.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (300, 64, 0.05)
    assert (training.momentum, training.nesterov) == (0.9, False)
    schedule = training.schedule
    assert (schedule.kind, schedule.warmup_epochs, schedule.warmup_start) == ("flat_linear", 5, 0.01)
    assert (schedule.flat_until * 300, schedule.decay_until * 300) == (150, 270)
    assert schedule.final_factor == 0.01
    factors = student.factors
    assert (factors.init, factors.init_std, factors.gradient_scale) == ("normal", 0.5, "one")
    assert (factors.decay, factors.learning_rate_multiplier, factors.member_bias) == ("none", 0.5, True)
    assert (experiment.distillation.temperature, experiment.distillation.alpha) == (1, 0.9)
    assert (experiment.perturbation.kind, experiment.perturbation.strength) == ("conf_ods", 1)


def test_a_wheel_brings_the_experiments_along(tmp_path):
    """Built from a copy, so that nothing is left in the working tree."""
    root = Path(__file__).parents[3]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not a source tree")
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "ekd_train", "orchestrator", "tune_spaces"):
        subprocess.run(["cp", "-r", str(root / name), str(copy)], check=True)
    build = (
        "import sys; from setuptools import build_meta; "
        "import os; os.chdir(sys.argv[1]); print(build_meta.build_wheel(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", build, str(copy), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("ekd-*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    assert {f"orchestrator/experiments/{path.name}" for path in PACKAGED.glob("*.yaml")} <= files
    assert {f"tune_spaces/{path.name}" for path in (root / "tune_spaces").glob("*.yaml")} <= files
    assert not [name for name in files if name.startswith(("tests", "benchmarks"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in THROUGH_RAY])
def test_the_jobs_of_a_smoke_run_end_with_an_averaged_student_as_large_as_the_control(name, small):
    tiny = name == "tiny_imagenet"
    fewer = ["teachers.count=2", "student.members=2"] if tiny else []
    experiment = make_small(load_experiment(name, [*small(name), *fewer]))
    # Smaller still: an image of each class, not two.
    sizes = ("train_size", "validation_size", "test_size")
    few = dict.fromkeys(sizes, CLASSES.get(experiment.data.name, 32))
    changes = {
        "cluster": one_small_worker(experiment.cluster),
        "data": experiment.data.model_copy(update=few),
    }
    experiment = experiment.model_copy(update=changes)
    checked = check(experiment)
    networks = networks_of(checked.storage, checked.run_id, experiment, checked.description)
    data = place(checked.dataset, torch.device("cpu"))

    def do(job):
        return execute(job, data, networks, Silent(), Workers())

    for run in training_runs(experiment):
        assert [record["epoch"] for record in do(run).history] == [1, 2]
    student = experiment.student_run()
    save_average(checked.storage, averaged(networks.load(student)), NetworkRecord(identity="x"))
    evaluated = do(Evaluation(control=experiment.control_run(), student=student))
    assert evaluated.cost["averaged"].params == evaluated.cost["control"].params
    tensors = load_predictions(checked.storage, checked.description, evaluated.cost)
    for values in measure(tensors, evaluated.cost).values():
        assert all(map(math.isfinite, values.test.values()))


PUBLISHED = [name for name in NAMES if name.startswith(("imagenet", "vit")) or name == "image_folder"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_small_networks_stand_in_for_published_weights_in_a_smoke_run(name):
    whole, small = load_experiment(name), make_small(load_experiment(name))
    architectures = [small.student.architecture, *(group.wanted for group in small.teachers)]
    assert all(a.weights is None and a.depth == 8 for a in architectures)
    assert small.student.architecture.pruned == whole.student.architecture.pruned
    assert (small.student.method, small.data.augmentation) == (whole.student.method, whole.data.augmentation)
    assert small.teacher_count == whole.teacher_count
    assert not any(group.given for group in small.teachers)


def test_of_given_teachers_those_that_exist_here_stay_in_a_smoke_run():
    published = "{weights: 'timm:resnet18.a1_in1k'}"
    mine = "{weights: mine.safetensors, architecture: {name: resnet18}, image_size: 64}"
    settings = [f"teachers=[{published}, {mine}]", "student.members=2", "perturbation.kind=none"]
    stands_in, stays = make_small(load_experiment("digits", settings)).teachers
    assert (stands_in.weights, stands_in.architecture.depth) == (None, 8)
    assert stays.given
    assert (stays.weights, stays.architecture.name, stays.image_size) == ("mine.safetensors", "resnet18", 64)


def test_the_rows_of_the_results_page_differ_in_how_much_is_pruned_alone():
    shares = {"25": 0.25, "375": 0.375, "50": 0.5}
    found = [load_experiment(f"imagenet_adlik_{name}") for name in shares]
    assert [experiment.student.architecture.pruned for experiment in found] == list(shares.values())
    first = found[0].resolved()
    for experiment in found[1:]:
        other = experiment.resolved()
        other["student"]["architecture"]["pruned"] = 0.25
        assert {key: value for key, value in other.items() if key not in ("name", "description")} == {
            key: value for key, value in first.items() if key not in ("name", "description")
        }


def test_imagenet_meal_v2_is_the_published_recipe_without_its_discriminator():
    """Shen, Savvides 2020, as their released code has it; where the rate falls is ours."""
    experiment = load_experiment("imagenet_meal_v2")
    assert [group.weights for group in experiment.teachers] == [
        "timm:senet154.gluon_in1k",
        "timm:resnet152s.gluon_in1k",
    ]
    training = experiment.student.training
    assert (training.learning_rate, training.momentum, training.weight_decay) == (0.01, 0.9, 0)
    assert (training.batch_size, training.epochs, training.schedule.kind) == (512, 180, "steps")
    assert experiment.distillation == Distillation(objective="mean_kd", temperature=1, alpha=1)
    assert experiment.data.augmentation == Augmentation(crop="photograph", flip=True)


def test_imagenet_funmatch_is_the_published_recipe():
    """Beyer et al., CVPR 2022: consistent (one crop and mixup for both) and patient."""
    experiment = load_experiment("imagenet_funmatch")
    training = experiment.student.training
    assert (training.optimiser.name, training.learning_rate, training.clip_norm) == ("adamw", 0.03, 1)
    assert (training.batch_size, training.epochs) == (4096, 1200)
    assert training.weight_decay * training.learning_rate == pytest.approx(3e-4)
    steps = training.schedule.warmup_epochs * 1_271_167 / training.batch_size
    assert steps == pytest.approx(5000, rel=0.02)
    assert experiment.data.augmentation == Augmentation(crop="photograph", flip=True, mixup=1)
    assert experiment.distillation == Distillation(objective="mean_kd", temperature=1, alpha=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", THROUGH_RAY)
def test_the_smoke_run_ends_with_a_registered_model(name, small, tmp_path, request):
    if name == "digits":
        folder = request.getfixturevalue("finished_smoke_run")
    else:
        folder = run_smoke(name, tmp_path, *small(name))
    assert (folder / "out").read_text().splitlines()[-1] == f"models:/ekd-{name}-smoke/1"
    (run,) = (path.parent for path in (folder / "runs").glob("*/manifest.json"))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["predictors"]["averaged"]["params"] == summary["predictors"]["control"]["params"]

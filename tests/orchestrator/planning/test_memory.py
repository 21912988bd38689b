"""What a worker needs of memory is said, and what cannot fit is refused with what would."""

from __future__ import annotations

import re

import pytest
import torch
from training_runs import a_description

from ekd_train.models import build_model
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, load_experiment
from orchestrator.planning.capacity import Capacity, Node
from orchestrator.planning.memory import GIB, memory_lines, needs
from orchestrator.planning.preflight import check
from orchestrator.runtime import address

GPUS = Capacity((Node(16, 4),), "10.0.0.1:6379")
IMAGES = a_description(train=6400, num_classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
RESNET_8 = {"name": "resnet", "depth": 8, "num_classes": 10, "in_channels": 3, "image_size": 32}
SMALL = ["teachers.architecture={name: resnet, depth: 8}", "student.architecture={name: resnet, depth: 8}"]


def on_gpus(*overrides: str) -> Experiment:
    return load_experiment("digits", [*SMALL, "cluster.gpus_per_worker=1", *overrides])


def test_a_plan_says_what_each_network_needs_of_a_gpu():
    needed, beside = memory_lines(on_gpus(), IMAGES, GPUS)
    assert re.fullmatch(r"memory    of each GPU: teachers [\d.]+ MiB, student [\d.]+ GiB", needed)
    assert beside.strip() == "and about 1 GiB beside tensors"
    cores = load_experiment("digits", SMALL)
    assert memory_lines(cores, IMAGES, Capacity((Node(2),), "10.0.0.1:6379"))[0].startswith(
        "memory    of each worker"
    )


def test_what_does_not_fit_is_refused_with_the_share_that_does():
    with pytest.raises(ExperimentError, match=r"student\.training: a step of 64 images takes") as caught:
        memory_lines(on_gpus("cluster.gpu_memory_gib=1.1"), IMAGES, GPUS)
    assert "batch_size" in str(caught.value)
    fits = int(re.search(r"about (\d+) would fit", str(caught.value))[1])
    assert 2 < fits < 64
    for share, well in ((fits, True), (round(1.3 * fits), False)):
        student = next(
            n for n in needs(on_gpus(f"student.training.batch_size={share}"), IMAGES) if n.run == "student"
        )
        assert (student.total <= 0.1 * GIB) is well


def test_half_a_gpu_is_half_of_its_memory_and_several_workers_share_a_batch():
    half = ["cluster.gpus_per_worker=0.5", "cluster.gpu_memory_gib=2.2"]
    assert "of 1.1 GiB" in memory_lines(on_gpus(*half, "student.training.batch_size=16"), IMAGES, GPUS)[1]
    alone, student = (
        needs(on_gpus(), IMAGES)[-1],
        needs(on_gpus("cluster.workers_per_run=[2, 4]"), IMAGES)[-1],
    )
    assert (alone.share, student.share) == (64, 32), "the fewest workers have the largest shares"
    assert student.step == pytest.approx(alone.step / 2, rel=0.1)
    assert student.lasting > alone.lasting, "the buckets that workers exchange"


def test_the_images_of_a_data_set_lie_on_the_gpu_too_unless_they_are_packed():
    few, many = (IMAGES.model_copy(update={"train": n}) for n in (6400, 12800))
    more = needs(on_gpus(), many)[-1].lasting - needs(on_gpus(), few)[-1].lasting
    assert more == 6400 * 3 * 32 * 32
    assert needs(on_gpus(), many, packed=True)[-1].lasting == needs(on_gpus(), few, packed=True)[-1].lasting


def test_a_moving_average_is_one_more_network_and_no_reason_not_to_know():
    plain, averaged = (needs(on_gpus(*ema), IMAGES)[-1] for ema in ([], ["student.training.ema=0.99"]))
    weights = 4 * sum(p.numel() for p in build_model(**RESNET_8).parameters())
    assert averaged.lasting - plain.lasting == pytest.approx(weights, rel=0.1)
    assert averaged.step == pytest.approx(plain.step, rel=0.01)


def test_the_way_out_that_a_refusal_names_can_be_planned():
    speed = "student.training.speed={checkpoint_activations: true, precision: %s}"
    way_out = [speed % "auto", "cluster.gpu_memory_gib=1.1"]
    fits = ["teachers.training.batch_size=8", "student.training.batch_size=8"]
    line, _ = memory_lines(on_gpus(*way_out, *fits), IMAGES, GPUS)
    assert re.search(r"student at most [\d.]+ MiB", line)
    counted, in_float32 = (needs(on_gpus(speed % precision), IMAGES)[-1] for precision in ("auto", "float32"))
    assert (counted.step, counted.at_most, in_float32.at_most) == (in_float32.step, True, False)


def test_on_processors_auto_is_the_precision_that_they_have(monkeypatch):
    steps = {}
    for has in (True, False):
        monkeypatch.setattr("ekd_train.training.speed._has_bfloat16", lambda _, has=has: has)
        experiment = load_experiment("digits", [*SMALL, "student.training.speed.precision=auto"])
        steps[has] = needs(experiment, IMAGES)[-1].step
    assert steps[True] < 0.7 * steps[False]


def test_a_loss_that_reads_values_leaves_the_need_unknown_and_not_the_plan(monkeypatch):
    monkeypatch.setattr(
        "ekd_train.objectives.mixture.Mixture.__call__",
        lambda *_: {"loss": torch.zeros(1, device="meta").item()},
    )
    (line,) = memory_lines(on_gpus(), IMAGES, GPUS)
    assert line.startswith("memory    not known: ")


def test_a_run_that_does_not_fit_a_gpu_is_refused_before_it_starts(tmp_path):
    places = [f"storage.uri={tmp_path}/runs", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    experiment = load_experiment(
        "digits", [*places, "cluster.gpus_per_worker=1", "cluster.gpu_memory_gib=0.5"]
    )
    with pytest.raises(ExperimentError, match=r"a GPU has 0\.5 GiB; not even one would fit"):
        check(experiment, capacity=GPUS)


@pytest.mark.parametrize(
    ("named", "count"),
    [
        (None, 4),
        ("", 0),
        ("0", 1),
        ("2,3", 2),
        ("NoDevFiles", 0),
        ("-1", 0),
        ("1,-1,2", 1),
        ("GPU-8f2c,GPU-77aa", 2),
        ("0,1,2,3,4,5", 4),
    ],
)
def test_the_gpus_that_cuda_shows_are_those_that_a_plan_counts_on(named, count, monkeypatch, tmp_path):
    for number in range(4):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    monkeypatch.setattr(address, "GPUS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert address.local_capacity().nodes[0].gpus == count

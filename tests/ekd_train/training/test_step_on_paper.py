"""A whole step of every kind on a device without values: what a GPU would be asked, proven without one."""

from __future__ import annotations

import json

import pytest
import torch
from step_costs import PRECISIONS, cases, cost_of, stored
from torch.profiler import ProfilerActivity, profile
from training_runs import made_up_data, student_run, untrained_teachers, with_training

from ekd_train.data.description import ImageSpec
from ekd_train.distributed import Workers
from ekd_train.settings import Architecture, Speed
from ekd_train.training.batches import Batches
from ekd_train.training.step import build_step
from ekd_train.training.step_on_paper import step_on_paper

CASES = dict(cases())
TABLE = stored()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_a_step_never_waits_for_a_gpu_and_every_parameter_learns_at_the_cost_that_is_known(name, precision):
    found = cost_of(CASES[name], precision)
    assert found.waits == {}
    assert found.without_gradient == ()
    if TABLE["torch"] != torch.__version__.partition("+")[0]:
        return  # other versions call other operators
    operators, peak_bytes = TABLE["steps"].get(f"{name}, {precision}", (0, 0))
    how = "if that is meant, .venv/bin/python tests/ekd_train/step_costs.py writes it down"
    assert (found.operators, found.peak_bytes) == (operators, pytest.approx(peak_bytes, rel=0.02)), how


def test_the_table_has_no_step_that_is_gone():
    assert set(TABLE["steps"]) == {f"{name}, {precision}" for name in CASES for precision in PRECISIONS}


@pytest.mark.parametrize(
    ("slip", "what"),
    [
        (lambda x: x[:, [0]], "__getitem__ of a list"),
        (lambda x: x + torch.tensor([1.0], device=x.device), "tensor of a list"),
        (lambda x: x + x.new_tensor([1.0]), "new_tensor of a list"),
        (lambda x: x + torch.ones(1).to(x.device), "aten._to_copy.default"),
        (lambda x: x[torch.arange(len(x))], "aten.index.Tensor"),
    ],
)
def test_what_would_wait_for_a_gpu_is_seen(slip, what, monkeypatch):
    original = torch.nn.BatchNorm2d.forward
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: original(self, slip(x).expand_as(x)))
    run = student_run("kd")
    assert what in step_on_paper(run, made_up_data().spec, images=4).waits


@pytest.mark.parametrize("slip", [lambda x: x * x.sum().item(), lambda x: x * float(x.mean())])
def test_a_value_that_is_read_stops_the_step(slip, monkeypatch):
    original = torch.nn.BatchNorm2d.forward
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: original(self, slip(x)))
    with pytest.raises(RuntimeError, match="meta"):
        step_on_paper(student_run("kd"), made_up_data().spec, images=4)


def test_a_parameter_that_does_not_learn_is_named(monkeypatch):
    original = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: original(self, x).detach())
    missing = step_on_paper(student_run("kd"), made_up_data().spec, images=4).without_gradient
    assert "network.network.stem.weight" in missing or any("weight" in name for name in missing)


def peak_of_the_allocator(run, data, images, file) -> int:
    """Bytes that torch's allocator had given out at most during two real steps, of which the first one makes
    the momenta; its own count, from the trace that its profiler writes."""
    data = made_up_data(train=images, size=data.spec.image_shape[1])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        teachers, workers = untrained_teachers(data), Workers()
        step = build_step(run, data, workers, teachers, None)
        batches = Batches(run, data, workers, teachers, None)
        for number in range(2):
            step(batches.draw(number, torch.arange(images)))
    recorded.export_chrome_trace(str(file))
    events = json.loads(file.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["none", "tdiv_sdiv"])
def test_the_peak_is_that_of_a_real_step_on_a_cpu(kind, precision, tmp_path):
    wide = Architecture(name="wide_resnet", depth=10, stem_channels=16, width=1)
    run = student_run("latent_be", kind, architecture=wide, batch_size=128)
    run = with_training(run, speed=Speed(precision=precision))
    data = made_up_data(size=16)
    predicted = step_on_paper(run, data.spec, images=128).peak_bytes
    assert predicted == pytest.approx(peak_of_the_allocator(run, data, 128, tmp_path / "trace.json"), rel=0.2)


def test_parts_of_a_batch_and_maps_that_are_computed_again_need_less_memory():
    deep = Architecture(name="wide_resnet", depth=16, stem_channels=2)

    def peak(**training: object) -> int:
        run = student_run("latent_be", architecture=deep, **{"speed": {"precision": "float32"}, **training})
        return step_on_paper(run, made_up_data().spec, images=64).peak_bytes

    whole = peak()
    assert peak(accumulate=4) < 0.5 * whole
    assert peak(speed={"checkpoint_activations": True, "precision": "float32"}) < whole


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "gib"), [("float32", 84.6), ("bfloat16", 44.8)])
def test_a_resnet_50_needs_what_torch_s_fake_tensors_said_once(precision, gib):
    """84.6 and 44.8 GiB were counted with torch's `FakeTensorMode` and its own autocast (2026)."""
    resnet = Architecture(name="resnet50")
    run = student_run("latent_be", "tdiv_sdiv", members=4, architecture=resnet)
    teachers = tuple(teacher.model_copy(update={"architecture": resnet}) for teacher in run.teachers)
    run = with_training(run.model_copy(update={"teachers": teachers}), speed=Speed(precision=precision))
    spec = ImageSpec(num_classes=1000, image_shape=(3, 224, 224), mean=(0.5,) * 3, std=(0.2,) * 3)
    found = step_on_paper(run, spec, images=256)
    assert found.waits == {}
    assert found.peak_bytes / 2**30 == pytest.approx(gib, rel=0.01)

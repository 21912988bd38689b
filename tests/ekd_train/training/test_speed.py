"""Every way of computing a step gives the same training, to the rounding that its name promises."""

import copy
from pathlib import Path

import pytest
import torch
from cutting_off import CutOff, CutsOff
from training_runs import (
    MemoryStore,
    checkpoints_in,
    made_up_data,
    same_tensors,
    student_run,
    untrained_teachers,
)

from ekd_train.evaluation.evaluate import predict
from ekd_train.models import build_model
from ekd_train.settings import Architecture, Speed
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent
from ekd_train.training.speed import compute_exactly, computing, lay_out, precision_on

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")
WIDE = Architecture(name="wide_resnet", depth=10, stem_channels=16)
"""Enough for the channels to be last."""
WAYS = {
    "default": {},
    "float32": {"precision": "float32"},
    "contiguous": {"memory_format": "contiguous", "precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16 contiguous": {"memory_format": "contiguous", "precision": "bfloat16"},
}


def trained(way, store=None, reporter=None, epochs=4):
    run = student_run(perturbation="tdiv_sdiv", speed=way, epochs=epochs, architecture=WIDE)
    data = made_up_data()
    return train(
        run,
        data,
        checkpoints=checkpoints_in(store or MemoryStore(), run),
        reporter=reporter or Silent(),
        teachers=untrained_teachers(data),
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_cut_off_run_ends_with_the_same_bits_whatever_the_way(way):
    whole, store = trained(way), MemoryStore()
    with pytest.raises(CutOff):
        trained(way, store, CutsOff(3))
    assert same_tensors(whole.network.state_dict(), trained(way, store).network.state_dict())


@pytest.mark.parametrize(("way", "tolerance"), [("contiguous", 1e-3), ("bfloat16", 0.05)])
def test_the_first_epoch_has_the_same_loss_to_rounding(way, tolerance):
    usual, other = (trained(WAYS[name], epochs=1).history[0] for name in ("float32", way))
    assert other["train/loss"] == pytest.approx(usual["train/loss"], rel=tolerance)


def test_weights_and_their_momenta_stay_float32_under_bfloat16():
    store = MemoryStore()
    trained(WAYS["bfloat16"], store)
    run = student_run(perturbation="tdiv_sdiv", speed=WAYS["bfloat16"], architecture=WIDE)
    tensors = checkpoints_in(store, run).newest().tensors
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(not CPUINFO.exists(), reason="only Linux tells what a processor can do in a file")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this PyTorch does not tell")
def test_by_default_the_precision_is_bfloat16_where_the_processor_computes_in_it():
    flags = set(CPUINFO.read_text().split())
    expected = "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"
    assert precision_on(Speed(), CPU) == expected
    assert precision_on(Speed(precision="float32"), CPU) == "float32"
    assert precision_on(Speed(precision="bfloat16"), CPU) == "bfloat16"


def test_the_default_trains_to_the_bits_of_the_precision_that_it_stands_for():
    named = {"precision": precision_on(Speed(), CPU)}
    default, explicit = (trained(way, epochs=1).network.state_dict() for way in ({}, named))
    assert same_tensors(default, explicit)


def test_probabilities_are_float32_also_where_networks_compute_in_bfloat16():
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with computing(Speed(precision="bfloat16"), CPU):
        assert network(images.float()).dtype == torch.bfloat16
        found = predict(network, images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 6), rtol=0, atol=1e-6)


def test_a_worker_with_a_gpu_computes_float32_in_float32_and_can_export():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    try:
        compute_exactly()
        after = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
        assert matmul.fp32_precision == "ieee"
        assert cudnn.conv.fp32_precision != "tf32"
        torch.export.export(torch.nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),))
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before
    assert after == (False, False, True)


@pytest.mark.parametrize("channels", [2, 15, 16])
def test_a_network_whose_gradient_onednn_gets_wrong_with_the_channels_last_stays_contiguous(channels):
    network = build_model("wide_resnet", num_classes=10, depth=10, stem_channels=channels)
    lay_out(network, Speed(memory_format="channels_last"))
    order = torch.channels_last if channels == 16 else torch.contiguous_format
    weights = [p for p in network.parameters() if p.dim() == 4 and p.shape[2] > 1]
    assert all(weight.is_contiguous(memory_format=order) for weight in weights)


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_gradient_of_a_strided_shortcut_is_that_of_float64(channels, precision):
    torch.manual_seed(0)
    network = build_model("wide_resnet", num_classes=10, depth=10, stem_channels=channels).train()
    exact = copy.deepcopy(network).double()
    images = torch.randn(8, 3, 8, 8)
    speed = Speed(memory_format="channels_last", precision=precision)
    lay_out(network, speed)
    with computing(speed, CPU):
        outputs = network(images)
    outputs.square().mean().backward()
    exact(images.double()).square().mean().backward()
    for mine, theirs in zip(network.parameters(), exact.parameters(), strict=True):
        error = (mine.grad - theirs.grad).norm() / theirs.grad.norm().clamp(min=1e-3)
        assert error < {"float32": 1e-4, "bfloat16": 0.3}[precision]

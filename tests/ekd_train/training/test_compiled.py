"""Blocks compile as one graph each, to the same step; off a GPU nothing is compiled."""

import pytest
import torch
from pydantic import ValidationError
from training_runs import label_run, made_up_data, student_run, untrained_teachers, with_training

from ekd_train.distributed import Workers
from ekd_train.models import build_model
from ekd_train.settings import Speed
from ekd_train.training.batches import Batches
from ekd_train.training.compiled import compile_blocks
from ekd_train.training.recompute import blocks
from ekd_train.training.step import build_step

CPU = torch.device("cpu")


def losses(run, *, compiled: bool) -> list[float]:
    data, workers = made_up_data(), Workers()
    teachers = untrained_teachers(data, len(run.teachers)) if run.teachers else None
    step, batches = (
        build_step(run, data, workers, teachers, None),
        Batches(run, data, workers, teachers, None),
    )
    if compiled:
        assert len(list(blocks(step.trainee.network))) >= 3
        compile_blocks(step.trainee.network, "blocks", CPU, backend="aot_eager")
    rows = batches.of_epoch(0)
    return [float(step(batches.draw(n, rows[n]))["loss"]) for n in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("run", [label_run(), student_run("latent_be")], ids=["label", "latent_be"])
def test_the_blocks_of_a_network_compile_as_one_graph_each_to_the_same_step(run):
    """`fullgraph` raises for anything less. Members call a layer with weights that are not its own."""
    plain, compiled = (losses(run, compiled=how) for how in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("how", ["blocks", "graphs"])
def test_on_a_cpu_nothing_is_compiled(how):
    run = with_training(label_run(), speed=Speed(compile=how))
    assert losses(run, compiled=False) == losses(label_run(), compiled=False)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "convnext_tiny", "timm/vit_tiny_patch16_224"])
def test_networks_have_blocks_to_compile(name):
    with torch.device("meta"):
        network = build_model(name, num_classes=10, in_channels=3)
    assert len(list(blocks(network))) >= 8


def test_a_block_is_compiled_or_computed_again():
    with pytest.raises(ValidationError, match="compile and checkpoint_activations exclude each other"):
        Speed(compile="blocks", checkpoint_activations=True)

"""The straightforward formulation and the project's step are the same step, to rounding."""

import copy

import pytest
import torch

from benchmarks.straightforward import StraightforwardStudent, train_on_labels, train_student
from benchmarks.workload import (
    STRENGTH,
    TEMPERATURE,
    WEIGHT_DECAY,
    Workload,
    sgd,
    straightforward_optimiser,
)
from ekd_train.data.augment import augment
from ekd_train.settings import Speed
from ekd_train.training.optimiser import set_learning_rate

SMALL = Workload(batch_size=16, images=64, image_size=16, stem_channels=4, members=3)


def loop_in_float64(workload):
    loop = workload.loop()
    loop.step.trainee.double()
    loop.teachers.double()
    return loop


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["none", "tdiv", "tdiv_sdiv"])
def test_both_formulations_of_a_step_make_the_same_weights(kind, layout, monkeypatch):
    loop = loop_in_float64(
        SMALL.changed(perturbation=kind, speed=Speed(memory_format=layout, precision="float32"))
    )
    student = StraightforwardStudent(loop.step.trainee.network)
    optimiser = straightforward_optimiser(student)
    teachers = copy.deepcopy(list(loop.teachers))
    set_learning_rate(loop.step.optimiser, 1.0)
    # Float64 from the pixels on: float32 gradients point elsewhere where networks nearly agree.
    in_float64 = lambda images, draw: augment(images, draw).double()  # noqa: E731
    monkeypatch.setattr("ekd_train.training.step.augment", in_float64)
    for index in range(3):
        batch = loop.batches.draw(index, torch.arange(index, index + SMALL.batch_size))
        losses = loop.step(batch)
        loss = train_student(
            student,
            teachers,
            optimiser,
            in_float64(batch.images, batch.augmentation),
            pair=batch.perturbation.teachers or (0, 1),
            kind=kind,
            strength=STRENGTH,
            temperature=TEMPERATURE,
            weight_decay=WEIGHT_DECAY,
        )
        torch.testing.assert_close(losses["loss"], loss)
    ours = loop.step.trainee.network.state_dict()
    theirs = student.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("architecture", ["WRN-10-1", "ResNet-8"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_both_formulations_of_a_teachers_step_make_the_same_weights(architecture, layout):
    speed = Speed(memory_format=layout, precision="float32")
    loop = SMALL.changed(method="teacher", architecture=architecture, speed=speed).loop()
    loop.step.trainee.double().train()
    network = copy.deepcopy(loop.step.trainee.network)
    optimiser = sgd(network.parameters())
    set_learning_rate(loop.step.optimiser, 1.0)
    for index in range(3):
        batch = loop.batches.draw(index, torch.arange(index, index + SMALL.batch_size))
        losses = loop.step(batch)
        loss = train_on_labels(network, optimiser, augment(batch.images, batch.augmentation), batch.labels)
        torch.testing.assert_close(losses["loss"], loss)
    theirs = network.state_dict()
    for key, value in loop.step.trainee.network.state_dict().items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-6, atol=1e-8)

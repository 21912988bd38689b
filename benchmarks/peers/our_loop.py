"""This project's side: `Loop`, as `ekd run` runs it, on the same images."""

from __future__ import annotations

import sys

import torch

from benchmarks.peers import case
from benchmarks.timed_loop import advance_in_turns
from benchmarks.workload import MemoryStore
from ekd_train.data.description import ImageSpec
from ekd_train.data.fashion_mnist import load_fashion_mnist
from ekd_train.data.tensors import Images, TrainingData
from ekd_train.distributed import Workers
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.settings import (
    Architecture,
    Augmentation,
    DataSettings,
    Distillation,
    Speed,
    Student,
    Training,
    TrainingRun,
)
from ekd_train.training.loop import Loop
from ekd_train.training.reporter import Silent


def main() -> None:
    core, root, precision = sys.argv[1:]
    turns, device = case.take_turns(core)
    torch.manual_seed(0)
    teachers = Teachers([case.network()]).to(device)
    store = Checkpoints(MemoryStore(), "benchmark", "benchmark")
    loop = Loop(_run(precision), _data(root, device), store, Silent(), Workers(device=device), teachers)
    advance_in_turns(loop, turns)


def _data(root: str, device: torch.device) -> TrainingData:
    source = load_fashion_mnist(DataSettings(name="fashion_mnist", root=root))
    assert source.test is not None
    train, held_out = (
        Images(torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device))
        for split in (source.train, source.test)
    )
    spec = ImageSpec(
        num_classes=case.CLASSES,
        image_shape=(case.CHANNELS, case.IMAGE_SIZE, case.IMAGE_SIZE),
        **case.STATISTICS,
    )
    return TrainingData(train, held_out, spec)


def _run(precision: str) -> TrainingRun:
    architecture = Architecture.model_validate(case.ARCHITECTURE)
    training = Training(
        epochs=1000,
        batch_size=case.BATCH_SIZE,
        learning_rate=case.LEARNING_RATE,
        momentum=case.MOMENTUM,
        weight_decay=case.WEIGHT_DECAY,
        speed=Speed.model_validate({"precision": precision}),
    )
    return TrainingRun(
        name="benchmark",
        role="student",
        seed=0,
        architecture=architecture,
        training=training,
        augmentation=Augmentation(crop_padding=case.CROP_PADDING, flip=True),
        student=Student(method="kd", architecture=architecture, training=training),
        distillation=Distillation(temperature=case.TEMPERATURE, alpha=case.TEACHER_WEIGHT),
    )


if __name__ == "__main__":
    main()

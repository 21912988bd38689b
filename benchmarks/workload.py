"""Training runs on random images, of the sizes that the benchmarks are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.straightforward import (
    ScaledActivations,
    StraightforwardStudent,
    train_on_labels,
    train_student,
)
from benchmarks.timing import DEVICE
from ekd_train.data.augment import augment
from ekd_train.data.description import ImageSpec
from ekd_train.data.tensors import Images, TrainingData
from ekd_train.distributed import Workers
from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import BatchEnsemble
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.persistence.store import Store
from ekd_train.settings import (
    Architecture,
    Augmentation,
    Distillation,
    PerturbationKind,
    PerturbationSettings,
    Speed,
    Student,
    Training,
    TrainingRun,
)
from ekd_train.training.loop import Loop
from ekd_train.training.reporter import Reporter, Silent

CHANNELS, CLASSES, TRAINING_IMAGES = 3, 10, 2048
STATISTICS = {"mean": (0.5,) * CHANNELS, "std": (0.25,) * CHANNELS}
TEMPERATURE, STRENGTH, WEIGHT_DECAY = 4.0, 1.0, 5e-4

ARCHITECTURES = {
    "WRN-10-1": Architecture(name="wide_resnet", depth=10),
    "WRN-16-1": Architecture(name="wide_resnet", depth=16),
    "ResNet-8": Architecture(name="resnet", depth=8),
}

STRAIGHTFORWARD = Speed(memory_format="contiguous", precision="float32")
"""The settings that change nothing: float32, contiguous, eager."""


class MemoryStore:
    """A `Store` in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def read(self, key: str, most_bytes: int = 0) -> bytes:
        return self.objects[key]

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def list(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


@dataclass(frozen=True)
class Workload:
    """One training run, as a benchmark describes it."""

    architecture: str = "WRN-10-1"
    stem_channels: int = 16
    image_size: int = 28
    batch_size: int = 128
    members: int = 4
    method: str = "latent_be"
    """`latent_be`, `kd`, or `teacher`: one network on labels."""
    perturbation: PerturbationKind = "tdiv_sdiv"
    speed: Speed = Speed()
    augmented: bool = True
    images: int = TRAINING_IMAGES

    @property
    def name(self) -> str:
        what = {"teacher": "a teacher", "kd": "KD"}.get(self.method, f"LatentBE+{self.perturbation}")
        return f"{what}, {self.architecture} ({self.stem_channels} ch), {self.image_size} px"

    def changed(self, **changes: Any) -> Workload:
        """The same with some fields changed."""
        return replace(self, **changes)

    def loop(
        self,
        workers: Workers = Workers(device=DEVICE),
        reporter: Reporter | None = None,
        store: Store | None = None,
    ) -> Loop:
        """The run before its first step; it checkpoints into `store`, or into memory."""
        torch.manual_seed(0)
        data = _images(self.images, self.image_size, workers)
        teachers = None
        if self.method != "teacher":
            teachers = Teachers([self.network() for _ in range(self.members)]).to(workers.device)
        checkpoints = Checkpoints(store or MemoryStore(), "benchmark", "benchmark")
        return Loop(self._run(), data, checkpoints, reporter or Silent(), workers, teachers)

    def step(self, loop: Loop | None = None) -> Callable[[], object]:
        """One whole step of the project: draws, batch, augmentation, update."""
        loop = loop or self.loop()
        loop.step.trainee.train()
        rows = torch.arange(self.batch_size)
        counter = iter(range(1 << 30))
        return lambda: loop.step(loop.batches.draw(next(counter), rows))

    def straightforward_step(self) -> Callable[[], object]:
        """The same step, from the same draws, in the straightforward formulation."""
        loop = replace(self, speed=STRAIGHTFORWARD).loop()
        rows, counter = torch.arange(self.batch_size), iter(range(1 << 30))
        network = loop.step.trainee.network
        if self.method == "teacher":
            optimiser = sgd(network.parameters())

            def label_step() -> Tensor:
                batch = loop.batches.draw(next(counter), rows)
                images = augment(batch.images, batch.augmentation)
                return train_on_labels(network, optimiser, images, batch.labels)

            return label_step
        assert isinstance(network, BatchEnsemble)
        teachers = list(loop.teachers or ())
        student = StraightforwardStudent(network)
        optimiser = straightforward_optimiser(student)

        def student_step() -> Tensor:
            batch = loop.batches.draw(next(counter), rows)
            pair = batch.perturbation.teachers
            return train_student(
                student,
                teachers,
                optimiser,
                augment(batch.images, batch.augmentation),
                pair=(pair[0], pair[1]) if pair else (0, 1),
                kind=self.perturbation,
                strength=STRENGTH,
                temperature=TEMPERATURE,
                weight_decay=WEIGHT_DECAY,
            )

        return student_step

    def network(self) -> torch.nn.Module:
        """One plain network, untrained."""
        return build_model(
            **self._architecture.model_dump(exclude_none=True),
            num_classes=CLASSES,
            in_channels=CHANNELS,
            image_size=self.image_size,
            **STATISTICS,
        )

    @property
    def _architecture(self) -> Architecture:
        return ARCHITECTURES[self.architecture].model_copy(update={"stem_channels": self.stem_channels})

    def _run(self) -> TrainingRun:
        training = Training(
            epochs=1000,
            batch_size=self.batch_size,
            learning_rate=0.03,
            speed=self.speed,
            checkpoint_every=1000,
            evaluate_every=1000,
        )
        augmentation = Augmentation(crop_padding=4, flip=True) if self.augmented else Augmentation()
        run = TrainingRun(
            name="benchmark",
            role="label",
            seed=0,
            architecture=self._architecture,
            training=training,
            augmentation=augmentation,
        )
        if self.method == "teacher":
            return run
        method = "kd" if self.method == "kd" else "latent_be"
        student = Student(
            method=method, architecture=self._architecture, training=training, members=self.members
        )
        return run.model_copy(
            update={
                "role": "student",
                "student": student,
                "distillation": Distillation(temperature=TEMPERATURE),
                "perturbation": PerturbationSettings(kind=self.perturbation, strength=STRENGTH),
            }
        )


def straightforward_optimiser(student: StraightforwardStudent) -> torch.optim.SGD:
    """SGD as Nam et al. use it; factors do not decay here, but toward one in the step."""
    factors = [p for m in student.modules() if isinstance(m, ScaledActivations) for p in (m.r, m.s)]
    own = {id(factor) for factor in factors}
    shared = [p for p in student.parameters() if id(p) not in own]
    return sgd([{"params": shared}, {"params": factors, "weight_decay": 0.0}])


def sgd(parameters: object) -> torch.optim.SGD:
    """As Nam et al. use it."""
    return torch.optim.SGD(
        parameters,  # type: ignore[arg-type]
        lr=0.03,
        momentum=0.9,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )


def _images(count: int, size: int, workers: Workers) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    shape = (count, CHANNELS, size, size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    images = Images(pixels.to(workers.device), labels.to(workers.device))
    held_out = max(1, count // 9)  # a tenth of all images, as in the papers' CIFAR split
    validation = Images(images.images[:held_out], images.labels[:held_out])
    spec = ImageSpec(num_classes=CLASSES, image_shape=(CHANNELS, size, size), **STATISTICS)
    return TrainingData(images, validation, spec)

"""The training runs that are checked and timed on a GPU, large there and tiny where the script is tested."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ekd_train.data.description import ImageSpec
from ekd_train.data.tensors import Images, TrainingData
from ekd_train.distributed import Workers
from ekd_train.models.build_network import build_network
from ekd_train.models.teachers import Teachers
from ekd_train.settings import (
    Architecture,
    Augmentation,
    Distillation,
    PerturbationSettings,
    Speed,
    Student,
    Training,
    TrainingRun,
)
from ekd_train.training.batches import Batches
from ekd_train.training.step import Step, build_step

TINY = Architecture(name="wide_resnet", depth=10, stem_channels=4)


@dataclass(frozen=True)
class Case:
    """A run on random images."""

    name: str
    architecture: Architecture
    image_size: int
    classes: int
    batch_size: int
    method: str = "label"
    """`label`: one network on labels; else a student's."""
    perturbation: str = "none"
    members: int = 4
    precision: str = "bfloat16"
    compile: str = "no"
    batch_norm: str = "per_worker"
    epochs: int = 1

    @property
    def spec(self) -> ImageSpec:
        shape = (3, self.image_size, self.image_size)
        return ImageSpec(num_classes=self.classes, image_shape=shape, mean=(0.5,) * 3, std=(0.25,) * 3)

    @property
    def run(self) -> TrainingRun:
        training = Training.model_validate(
            {
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "learning_rate": 0.02,
                "batch_norm": self.batch_norm,
                "speed": Speed.model_validate({"precision": self.precision, "compile": self.compile}),
            }
        )
        augmentation = Augmentation(crop_padding=min(4, self.image_size // 8), flip=True)
        label = TrainingRun(
            name="teacher-0",
            role="label",
            seed=0,
            architecture=self.architecture,
            training=training,
            augmentation=augmentation,
        )
        if self.method == "label":
            return label
        student = Student.model_validate(
            {
                "method": self.method,
                "members": self.members,
                "architecture": self.architecture,
                "training": training,
            }
        )
        teachers = [label.model_copy(update={"name": f"teacher-{i}"}) for i in range(self.members)]
        return label.model_copy(
            update={
                "name": "student",
                "role": "student",
                "student": student,
                "distillation": Distillation(alpha=0.9),
                "perturbation": PerturbationSettings.model_validate({"kind": self.perturbation}),
                "teachers": tuple(teachers),
            }
        )

    def data(self, device: torch.device, batches: int = 2) -> TrainingData:
        """Random images in which the label is the brightness, so that there is something to learn."""
        generator = torch.Generator().manual_seed(0)
        count = batches * self.batch_size
        labels = torch.arange(count) % self.classes
        pixels = torch.randint(0, 100, (count, 3, self.image_size, self.image_size), generator=generator)
        pixels += (labels * 150 // self.classes).view(-1, 1, 1, 1)
        images = Images(pixels.to(torch.uint8).to(device), labels.to(device))
        return TrainingData(images, Images(images.images[:8], images.labels[:8]), self.spec)

    def teachers(self, device: torch.device) -> Teachers | None:
        """Untrained, and the same on every device."""
        torch.manual_seed(1)
        networks = [build_network(run, self.spec) for run in self.run.teachers]
        return Teachers(networks).to(device) if networks else None

    def made(self, workers: Workers) -> tuple[Step, Batches]:
        """The step and what draws its batches."""
        data, teachers = self.data(workers.device), self.teachers(workers.device)
        step = build_step(self.run, data, workers, teachers, None)
        return step, Batches(self.run, data, workers, teachers, None)

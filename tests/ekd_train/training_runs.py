"""Small training runs on made-up images, and the store that they write to."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ekd_train.data.description import DataDescription, ImageSpec
from ekd_train.data.tensors import Images, TrainingData
from ekd_train.models.build_network import build_network
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.persistence.networks import Networks
from ekd_train.settings import (
    Architecture,
    Augmentation,
    Distillation,
    PerturbationSettings,
    Student,
    Training,
    TrainingRun,
)

CLASSES = 3
SMALL = Architecture(name="wide_resnet", depth=10, stem_channels=2, width=1)


class MemoryStore:
    """A `Store` in a dictionary; `states` are all that it has been in, one after each change."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})
        self.states = [dict(self.objects)]

    def read(self, key: str, most_bytes: int = 0) -> bytes:
        if key not in self.objects:
            raise LookupError(key)
        return self.objects[key]

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self.states.append(dict(self.objects))

    def list(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.objects if key.startswith(f"{prefix}/"))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)
        self.states.append(dict(self.objects))


class Tables(dict[str, Tensor]):
    """`Predictions` in memory."""

    def pooled(self, key: str) -> Tensor:
        return self[key].mean(0)

    def blocks(self, key: str) -> Iterator[Tensor]:
        yield self[key]


def networks_in(store: Any, description: DataDescription | None = None, **changes: Any) -> Networks:
    """Of a run that is alone in its storage."""
    values = {"run": store, "shared": store, "data": description or a_description(), "run_id": "alone"}
    return Networks(**(values | changes))


class SlowStore(MemoryStore):
    """A store at the end of a long line."""

    def write(self, key: str, data: bytes) -> None:
        time.sleep(0.2)
        super().write(key, data)


def made_up_images(count: int, seed: int, size: int = 8, channels: int = 1) -> Images:
    """Noise in which the label shows as a brighter band, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 120, (count, channels, size, size), generator=generator)
    for label in range(CLASSES):
        pixels[labels == label, :, 2 * label : 2 * label + 2] += 100
    return Images(pixels.to(torch.uint8), labels)


def made_up_data(train: int = 28, channels: int = 1, size: int = 8) -> TrainingData:
    return TrainingData(
        train=made_up_images(train, seed=1, channels=channels, size=size),
        validation=made_up_images(15, seed=2, channels=channels, size=size),
        spec=ImageSpec(
            num_classes=CLASSES,
            image_shape=(channels, size, size),
            mean=(0.4,) * channels,
            std=(0.3,) * channels,
        ),
    )


def a_description(**changes: Any) -> DataDescription:
    """Of small grey images in as many classes as those that are made up here."""
    classes = changes.get("num_classes", CLASSES)
    values = {
        "name": "made up",
        "train": 28,
        "validation": 15,
        "test": 12,
        "num_classes": classes,
        "image_shape": (1, 8, 8),
        "mean": (0.4,),
        "std": (0.3,),
        "class_names": tuple(map(str, range(classes))),
        "fingerprint": "f",
    }
    return DataDescription.model_validate(values | changes)


def label_run(name: str = "control", architecture: Architecture = SMALL, **training: Any) -> TrainingRun:
    return TrainingRun(
        name=name,
        role="label",
        seed=5,
        architecture=architecture,
        training=_training(training),
        augmentation=Augmentation(crop_padding=1, flip=True),
    )


def student_run(
    method: str = "latent_be",
    perturbation: str = "none",
    *,
    objective: str = "auto",
    alpha: float = 1.0,
    members: int = 2,
    architecture: Architecture = SMALL,
    student: dict[str, Any] | None = None,
    distillation: dict[str, Any] | None = None,
    **training: Any,
) -> TrainingRun:
    settings = Student.model_validate(
        {
            "method": method,
            "members": members,
            "architecture": architecture,
            "training": _training(training),
            **(student or {}),
        }
    )
    return TrainingRun(
        name="student",
        role="student",
        seed=5,
        architecture=architecture,
        training=settings.training,
        augmentation=Augmentation(crop_padding=1, flip=True),
        student=settings,
        distillation=Distillation.model_validate(
            {"objective": objective, "alpha": alpha, **(distillation or {})}
        ),
        perturbation=PerturbationSettings(kind=perturbation, strength=2.0),
        teachers=tuple(label_run(f"teacher-{i}") for i in range(members)),
    )


def papa_run(**training: Any) -> TrainingRun:
    """Whole networks pulled toward their mean, which nobody teaches."""
    return student_run("papa", **training).model_copy(update={"teachers": ()})


def untrained_teachers(data: TrainingData, count: int = 2) -> Teachers:
    networks = []
    for index in range(count):
        torch.manual_seed(100 + index)
        networks.append(build_network(label_run(), data.spec))
    return Teachers(networks)


def checkpoints_in(store: MemoryStore, run: TrainingRun, keep: int = 2) -> Checkpoints:
    return Checkpoints(store, f"checkpoints/{run.name}", "the identity", keep=keep)


def with_training(run: TrainingRun, **changes: Any) -> TrainingRun:
    training = run.training.model_copy(update=changes)
    student = run.student and run.student.model_copy(update={"training": training})
    return run.model_copy(update={"training": training, "student": student})


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _training(changes: dict[str, Any]) -> Training:
    settings = {"epochs": 4, "batch_size": 7, "learning_rate": 0.02, **changes}
    return Training.model_validate(settings)

"""The real experiment made small: every component, a few images, no result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ekd_train.settings import DataSettings, Training

if TYPE_CHECKING:
    from orchestrator.experiment import Cluster, Experiment

CLASSES = {"cifar100": 100, "tiny_imagenet": 200}
"""Of data sets that have more than ten: a subset must show each class."""


def make_small(experiment: Experiment) -> Experiment:
    """The same experiment over two epochs of two small batches, or of as many as show each class twice."""
    batch = min(16, experiment.student.training.batch_size)
    images = max(2 * batch, 2 * _classes(experiment.data))

    def small(training: Training) -> Training:
        warmup = min(1.0, training.schedule.warmup_epochs)
        return training.model_copy(
            update={
                "epochs": 2,
                "batch_size": batch,
                "checkpoint_every": 1,
                "evaluate_every": 1,
                "schedule": training.schedule.model_copy(update={"warmup_epochs": warmup}),
            }
        )

    data = experiment.data.model_copy(
        update={
            "train_size": images,
            "train_fraction": 1.0,
            "validation_size": min(images, experiment.data.validation_size),
            "test_size": min(images, experiment.data.test_size or images),
        }
    )
    student = experiment.student
    factors = student.factors.model_copy(update={"warmup_epochs": min(1.0, student.factors.warmup_epochs)})
    groups = tuple(g.model_copy(update={"training": small(g.training)}) for g in experiment.teachers)
    return experiment.model_copy(
        update={
            "name": f"{experiment.name}-smoke",
            "data": data,
            "teachers": groups,
            "student": student.model_copy(update={"training": small(student.training), "factors": factors}),
        }
    )


def _classes(data: DataSettings) -> int:
    folder = Path(data.root or "") / "train"
    if data.name == "image_folder" and folder.is_dir():
        return sum(entry.is_dir() for entry in folder.iterdir())
    return CLASSES.get(data.name, 10)


def one_small_worker(cluster: Cluster) -> Cluster:
    """What a smoke run falls back to on a machine that lacks what the experiment asks for."""
    return cluster.model_copy(update={"workers_per_run": 1, "cpus_per_worker": 1, "gpus_per_worker": 0})

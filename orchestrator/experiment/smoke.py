"""The real experiment made small: every component, a few images, no result."""

from contextlib import suppress

import numpy as np

from ekd_train.data import LISTINGS, DataError
from ekd_train.data.image_files import ImageFiles
from ekd_train.settings import Architecture, DataSettings, Pretrained, Training
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.teachers import Teachers

SUFFIX = "-smoke"
"""What the name of an experiment that was made small ends with."""

CLASSES = {"cifar100": 100, "tiny_imagenet": 200}
"""Of data sets that have more than ten: a subset must show each class."""


MOST_IN_A_BATCH = 64
"""Images in a batch of a smoke run, unless there are more workers."""

OF_THE_RATE = 0.3
"""Share of the learning rate: at all of it students of so few images diverged."""

SMALL_PIXELS = 16
"""Side of an image that networks with a small-image stem are given."""

PUBLISHED = ("torchvision:", "timm:")
"""Weights of large networks, which a smoke run does not download: small ones stand in for these."""


def make_small(experiment: Experiment) -> Experiment:
    """The same experiment over two epochs of two small batches, or of as many as show each class twice.

    Networks keep their kind and depth; what is wide becomes thin, and large images small where every
    network takes small ones and none exists already: WRN-28-10 would need an hour on two cores for the
    images of a smoke run. Where weights that others publish are named, small networks of random weights
    stand in for every network but those whose weights are here.
    """
    if any(_published(a) for a in _architectures(experiment)):
        experiment = _with_stand_ins(experiment)
    # A batch has an image for each worker at least.
    student_batch = experiment.student.training.batch_size
    batch = min(max(16, experiment.cluster.most_workers), student_batch)
    sizes = _sizes(experiment.data, 2 * batch)
    # Of many classes larger batches: two images of each of 200 would be 25 steps an epoch.
    batch = max(batch, min(MOST_IN_A_BATCH, student_batch, sizes["train_size"] // 4))
    batch = min(batch, sizes["train_size"])

    def small(training: Training) -> Training:
        warmup = min(1.0, training.schedule.warmup_epochs)
        return training.model_copy(
            update={
                "epochs": 2,
                "batch_size": batch,
                "learning_rate": training.learning_rate * OF_THE_RATE,
                "accumulate": min(2, training.accumulate),
                "checkpoint_every": 1,
                "evaluate_every": 1,
                "schedule": training.schedule.model_copy(update={"warmup_epochs": warmup}),
            }
        )

    data = experiment.data.model_copy(update={**sizes, "train_fraction": 1.0})
    architectures = _architectures(experiment)
    if all(a.weights is None and (a.small_images or a.depth is not None) for a in architectures):
        data = data.model_copy(update={"image_size": _small_image_size(data)})
    student = experiment.student
    factors = student.factors.model_copy(update={"warmup_epochs": min(1.0, student.factors.warmup_epochs)})
    groups = tuple(
        g
        if g.given
        else g.model_copy(update={"training": small(g.training), "architecture": _thin(g.architecture, g)})
        for g in experiment.teachers
    )
    return experiment.model_copy(
        update={
            "name": f"{experiment.name}{SUFFIX}",
            "data": data,
            "teachers": groups,
            "student": student.model_copy(
                update={
                    "training": small(student.training),
                    "architecture": _thin(student.architecture, student.architecture),
                    "factors": factors,
                }
            ),
        }
    )


def _architectures(experiment: Experiment) -> list[Architecture]:
    return [experiment.student.architecture, *(group.wanted for group in experiment.teachers)]


def _published(of: Pretrained) -> bool:
    return (of.weights or "").startswith(PUBLISHED)


def _is_here(of: Pretrained) -> bool:
    return of.weights is not None and not _published(of)


def _with_stand_ins(experiment: Experiment) -> Experiment:
    """Every network a ResNet-8 but those whose weights are here: given teachers are trained, and what was
    frozen by name learns."""
    stand_in = Architecture(name="resnet", depth=8, stem_channels=8)

    def thawed(training: Training) -> Training:
        return training.model_copy(
            update={"freeze": tuple(part for part in training.freeze if part == "backbone")}
        )

    def small(group: Teachers) -> Teachers:
        training = thawed(_training_of(group, experiment))
        return Teachers(count=group.count, architecture=stand_in, training=training)

    groups = tuple(group if _is_here(group) else small(group) for group in experiment.teachers)
    student = experiment.student
    if _is_here(student.architecture):
        return experiment.model_copy(update={"teachers": groups})
    changes = {
        "architecture": stand_in.model_copy(update={"pruned": student.architecture.pruned}),
        "training": thawed(student.training),
    }
    return experiment.model_copy(update={"teachers": groups, "student": student.model_copy(update=changes)})


def _training_of(group: Teachers, experiment: Experiment) -> Training:
    return experiment.student.training if group.given else group.training


def _thin(architecture: Architecture, starts: Pretrained) -> Architecture:
    """What starts from weights keeps their shapes."""
    if starts.weights is not None:
        return architecture
    return architecture.model_copy(update={"width": min(1.0, architecture.width)})


def _small_image_size(data: DataSettings) -> int | None:
    if data.name == "tiny_imagenet":
        return min(SMALL_PIXELS, data.image_size or SMALL_PIXELS)
    return min(SMALL_PIXELS, data.image_size) if data.image_size is not None else None


def _sizes(data: DataSettings, images: int) -> dict[str, int]:
    """Images of each split: `images`, or two of each class, or what few images there are."""
    counts = _counts(data)
    classes = len(counts["train"]) or CLASSES.get(data.name, 10)
    images = max(images, 2 * classes)
    validation = min(images, data.validation_size)
    test = min(images, data.test_size or images)
    if left := sum(counts["train"]):
        held_out = max(classes, left // 4)
        if counts["test"]:
            test = min(test, sum(counts["test"]))
        else:
            test = min(test, held_out)
            left -= test
        if not counts["validation"]:
            validation = min(validation, held_out)
            left -= validation
        images = max(1, min(images, left))
    return {"train_size": images, "validation_size": validation, "test_size": test}


def _counts(data: DataSettings) -> dict[str, list[int]]:
    """Images of each class in each split of a user's own data; what is wrong there, loading says."""
    splits: dict[str, ImageFiles] = {}
    if data.name in LISTINGS:
        with suppress(DataError):
            splits |= LISTINGS[data.name](data).splits
    return {
        split: np.bincount(splits[split].labels).tolist() if split in splits else []
        for split in ("train", "validation", "test")
    }


def one_small_worker(cluster: Cluster) -> Cluster:
    """What a smoke run falls back to on a machine that lacks what the experiment asks for."""
    small = {"workers_per_run": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "verify_every": 0}
    return cluster.model_copy(update=small)


def is_small(experiment: Experiment) -> bool:
    """Whether `make_small` made it, so that its numbers mean nothing."""
    return experiment.name.endswith(SUFFIX)

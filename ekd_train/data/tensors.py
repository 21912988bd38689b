"""A data set as tensors on the device that trains."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .dataset import Dataset, Split, describe
from .description import DataDescription, ImageSpec


@dataclass(frozen=True)
class Images:
    """Labelled images on one device: uint8 `(n, c, h, w)` and int64 `(n,)`."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainingData:
    """What a training run sees of a data set: no test images."""

    train: Images
    validation: Images
    spec: ImageSpec


@dataclass(frozen=True)
class DeviceData:
    """A whole data set on one device."""

    training: TrainingData
    test: Images
    description: DataDescription


def place(dataset: Dataset, device: torch.device) -> DeviceData:
    """`dataset` as tensors on `device`; on the CPU they are the arrays' own memory, not a copy."""
    description = describe(dataset)
    return DeviceData(
        training=TrainingData(
            train=_images(dataset.train, device),
            validation=_images(dataset.validation, device),
            spec=description,
        ),
        test=_images(dataset.test, device),
        description=description,
    )


def _images(split: Split, device: torch.device) -> Images:
    with warnings.catch_warnings():  # arrays that Ray shares are read-only, and nothing here writes to them
        warnings.filterwarnings("ignore", message=".*not writable.*")
        pixels, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    return Images(pixels.to(device), labels.to(device))

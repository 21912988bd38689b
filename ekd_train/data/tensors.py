"""A data set as tensors on the device that trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dataset import Dataset, Split, describe


@dataclass(frozen=True)
class Images:
    """Labelled images on one device: uint8 `(n, c, h, w)` and int64 `(n,)`."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainingData:
    """What a training run sees of a data set: no test images.

    `mean` and `std` are per channel, of pixels in [0, 1].
    """

    train: Images
    validation: Images
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)`."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class DeviceData:
    """A whole data set on one device; `description` is `ekd_train.data.describe`'s."""

    training: TrainingData
    test: Images
    description: Mapping[str, Any]


def place(dataset: Dataset, device: torch.device) -> DeviceData:
    """`dataset` as tensors on `device`; on the CPU they are the arrays' own memory, not a copy."""
    return DeviceData(
        training=TrainingData(
            train=_images(dataset.train, device),
            validation=_images(dataset.validation, device),
            num_classes=dataset.num_classes,
            mean=dataset.mean,
            std=dataset.std,
        ),
        test=_images(dataset.test, device),
        description=describe(dataset),
    )


def _images(split: Split, device: torch.device) -> Images:
    with warnings.catch_warnings():  # arrays that Ray shares are read-only, and nothing here writes to them
        warnings.filterwarnings("ignore", message=".*not writable.*")
        pixels, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    return Images(pixels.to(device), labels.to(device))

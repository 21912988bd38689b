"""A data set as tensors on the device that trains, or as what decodes them batch by batch."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .dataset import Dataset, Split, describe
from .description import DataDescription, ImageSpec
from .packed.images import PackedImages
from .packed.loader import Loader, StreamedImages


@dataclass(frozen=True)
class Images:
    """Labelled images on one device: uint8 `(n, c, h, w)`, or what stands for them, and int64 `(n,)`."""

    images: Tensor | StreamedImages
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


def place(dataset: Dataset, device: torch.device, loader_processes: int = 0) -> DeviceData:
    """`dataset` as tensors on `device`; on the CPU they are the arrays' own memory, not a copy.

    Packed images stay where they are: `loader_processes` decode them for this process; 0: it does so itself.
    """
    description = describe(dataset)
    loader = None
    if isinstance(dataset.train.images, PackedImages):
        loader = Loader(dataset.train.images, loader_processes, device)
    return DeviceData(
        training=TrainingData(
            train=_images(dataset.train, device, loader),
            validation=_images(dataset.validation, device, loader),
            spec=description,
        ),
        test=_images(dataset.test, device, loader),
        description=description,
    )


def in_batches(images: Tensor | StreamedImages, batches: Sequence[slice]) -> Iterator[Tensor]:
    """Those `batches` of the images, one after the other."""
    if isinstance(images, StreamedImages):
        return images.stream(batches)
    return (images[batch] for batch in batches)


def _images(split: Split, device: torch.device, loader: Loader | None) -> Images:
    with warnings.catch_warnings():  # arrays that Ray shares are read-only, and nothing here writes to them
        warnings.filterwarnings("ignore", message=".*not writable.*")
        labels = torch.from_numpy(split.labels).to(device)
        if isinstance(split.images, PackedImages):
            assert loader is not None  # all splits of a data set are packed, or none
            return Images(StreamedImages(split.images, loader), labels)
        return Images(torch.from_numpy(split.images).to(device), labels)

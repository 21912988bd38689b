"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour 32x32 images (Krizhevsky, 2009)."""

import os
from pathlib import Path

import numpy as np

from ekd_train.settings import DataSettings

from .cifar_pickle import read_pickle
from .dataset import Channels, Source, Split, checked_split
from .download import DEFAULT_ROOT, download
from .errors import DataError

CIFAR10_NORMALISATION: tuple[Channels, Channels] = ((0.4915, 0.4821, 0.4464), (0.2472, 0.2437, 0.2617))
CIFAR100_NORMALISATION: tuple[Channels, Channels] = ((0.5072, 0.4866, 0.4410), (0.2673, 0.2564, 0.2760))
"""Mean and standard deviation as the LatentBE authors' code has them."""

IMAGE_SHAPE = (3, 32, 32)


def load_cifar10(settings: DataSettings) -> Source:
    """Read CIFAR-10's five training batches and its test batch, the "python version".

    Raises:
        DataError: a file is missing, damaged, refused or mislabelled.
    """
    folder = _folder(settings, "cifar-10-batches-py", "batches.meta")
    names = _class_names(folder / "batches.meta", "label_names")
    batches = [_read(folder / f"data_batch_{index}", "labels", len(names)) for index in range(1, 6)]
    train = Split(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )
    test = _read(folder / "test_batch", "labels", len(names))
    return Source(train, test, names, official_order=True, normalisation=CIFAR10_NORMALISATION)


def load_cifar100(settings: DataSettings) -> Source:
    """Read CIFAR-100's `train` and `test` files, the "python version", with the 100 fine labels.

    Raises:
        DataError: a file is missing, damaged, refused or mislabelled.
    """
    folder = _folder(settings, "cifar-100-python", "meta")
    names = _class_names(folder / "meta", "fine_label_names")
    train, test = (_read(folder / split, "fine_labels", len(names)) for split in ("train", "test"))
    return Source(train, test, names, official_order=True, normalisation=CIFAR100_NORMALISATION)


def _folder(settings: DataSettings, torchvision_folder: str, meta: str) -> Path:
    """`data.root` if the files lie in it, else torchvision's folder under it."""
    root = Path(settings.root or DEFAULT_ROOT)
    if os.path.exists(root / meta):
        return root
    if settings.download and not os.path.exists(root / torchvision_folder / meta):
        download(settings.name, root)
    return root / torchvision_folder


def _class_names(path: Path, key: str) -> tuple[str, ...]:
    names = read_pickle(path).get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(path, f"has no list of class names under {key!r}", "fetch the file again")
    return tuple(names)


def _read(path: Path, label_key: str, num_classes: int) -> Split:
    batch = read_pickle(path)
    images, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != np.prod(IMAGE_SHAPE):
        found = images.shape if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(
            path, f"has no images of 3x32x32 bytes under 'data' (found {found})", "fetch the file again"
        )
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(path, f"has no list of integer labels under {label_key!r}", "fetch the file again")
    return checked_split(images.reshape(-1, *IMAGE_SHAPE), np.array(labels), num_classes, path)

"""Labelled images, in memory or packed, from files that are checked before anything trains.

Loading needs NumPy, Pillow and ArrayRecord only, and no torch.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ekd_train.own_code import build, is_own
from ekd_train.settings import DataName, DataSettings

from .cifar import load_cifar10, load_cifar100
from .class_subsets import without_classes
from .dataset import Dataset, Source, Split, channel_statistics, describe
from .description import DataDescription, ImageSpec
from .digits import load_digits
from .errors import DataError
from .fashion_mnist import load_fashion_mnist
from .findings import findings_of
from .form import Packing, source_of
from .image_files import Listing
from .image_folder import list_image_folder
from .subsets import divide
from .table import list_table
from .tiny_imagenet import load_tiny_imagenet

__all__ = [
    "LISTINGS",
    "LOADERS",
    "DataDescription",
    "DataError",
    "Dataset",
    "ImageSpec",
    "Packing",
    "Source",
    "Split",
    "describe",
    "load_dataset",
]


def _list_hugging_face(settings: DataSettings) -> Listing:
    try:
        from .hugging_face import list_hugging_face  # an extra, and a second to import
    except ModuleNotFoundError as error:
        needed = f"hugging_face needs the library {error.name!r}"
        raise DataError("data.name", needed, "pip install 'ekd[hugging_face]'") from None
    return list_hugging_face(settings)


LOADERS: dict[DataName | str, Callable[[DataSettings], Source]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "tiny_imagenet": load_tiny_imagenet,
    "image_folder": lambda settings: source_of(list_image_folder(settings), settings),
    "table": lambda settings: source_of(list_table(settings), settings),
    "hugging_face": lambda settings: source_of(_list_hugging_face(settings), settings),
}

LISTINGS: dict[DataName, Callable[[DataSettings], Listing]] = {
    "image_folder": list_image_folder,
    "table": list_table,
    "hugging_face": _list_hugging_face,
}
"""Of a user's own images: what there is, without decoding it."""


def load_dataset(settings: DataSettings, packing: Packing = Packing()) -> Dataset:
    """Load, check and divide the data set that `settings` names.

    The result depends on the files and the settings alone, never on the experiment's seed.
    Normalisation is the published one where papers agree on it (CIFAR, Tiny ImageNet), else
    measured on the training images, before `train_size` and `train_fraction` cut them: every
    nested subset is normalised alike. Images that would not fit into memory are packed, or only described,
    as `packing` says.

    Raises:
        DataError: files are missing, damaged or mislabelled, all training images are of one
            class, or the settings ask for more images than there are; it names the file or
            the settings key.

    >>> data = load_dataset(DataSettings(name="digits", validation_size=100, test_size=200))
    >>> data.train.images.shape, len(data.class_names)
    ((1497, 1, 8, 8), 10)
    """
    if is_own(settings.name):
        source = build(settings.name, settings, **settings.options)
        if not isinstance(source, Source):
            raise DataError(settings.name, f"gave {type(source).__name__}", "return an ekd_train.data.Source")
    elif settings.name in LISTINGS:
        source = source_of(LISTINGS[settings.name](settings), settings, packing)
    else:
        source = LOADERS[settings.name](settings)
    if settings.held_out_classes:
        source = without_classes(source, settings.held_out_classes)
    train, validation, test, whole_train = divide(
        source,
        validation_size=settings.validation_size,
        test_size=settings.test_size,
        train_size=settings.train_size,
        train_fraction=settings.train_fraction,
    )
    if (train.labels == train.labels[0]).all():
        raise DataError(
            settings.root or settings.name,
            f"all {len(train)} training images are of one class, {source.class_names[train.labels[0]]!r}",
            "there is nothing to learn: check the labels, or fetch the files again",
        )
    mean, std = source.normalisation or channel_statistics(np.asarray(whole_train.images))
    found = source.findings
    if source.packed is None or source.packed.made:
        found = (*found, *findings_of(train, validation, test, source.class_names))
    train, validation, test = (replace(split, files=None) for split in (train, validation, test))
    return Dataset(
        settings.name, train, validation, test, source.class_names, mean, std, found, source.packed
    )

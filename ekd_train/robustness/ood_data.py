"""Images of no known class: of classes kept from the run, or another data set's, made to fit its networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ekd_train.data import LOADERS
from ekd_train.data.augment import as_float
from ekd_train.data.class_subsets import only_classes
from ekd_train.data.dataset import Source, Split
from ekd_train.data.subsets import balanced_order
from ekd_train.robustness.corruptions.optics import luminance
from ekd_train.settings import ENCODED, DataName, DataSettings


@dataclass(frozen=True)
class OodData:
    """Uint8 images `(n, c, h, w)` of the data set `name`."""

    name: str
    images: Tensor


def load_outside(name: DataName, root: str | None, shape: Sequence[int], most: int) -> OodData:
    """A class-balanced choice of at most `most` images of `name`, of `shape` (c, h, w).

    Its test images; all of them where it has no test split of its own.

    Raises `DataError`: its files are missing or damaged.
    """
    size = shape[1] if name in ENCODED else None
    source = LOADERS[name](DataSettings(name=name, root=root, image_size=size))
    split = source.train if source.test is None else source.test
    return OodData(name, fit(_choose(split, source, most), shape))


def load_held_out(settings: DataSettings, most: int) -> OodData:
    """At most `most` images of the classes that `settings` keeps from the run, class-balanced.

    Raises `DataError`: files are missing or damaged.
    """
    source = LOADERS[settings.name](settings)
    return OodData("held-out classes", _choose(only_classes(source, settings.held_out_classes), source, most))


def _choose(split: Split, source: Source, most: int) -> Tensor:
    chosen = balanced_order(split.labels, len(source.class_names), "outside")[:most]
    return torch.from_numpy(split.images[chosen])


def fit(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Uint8 `(n, 1 or 3, ...)` as `(n, *shape)`: antialiased bilinear, grey from colour or repeated grey."""
    channels, height, width = shape
    values = as_float(images)
    values = luminance(values) if channels == 1 else values.expand(-1, channels, -1, -1)
    if values.shape[-2:] != (height, width):
        values = F.interpolate(values, (height, width), mode="bilinear", antialias=True)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)

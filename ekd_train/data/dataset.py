"""Images in memory: a split, a data set, and what identifies it."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from .description import DataDescription
from .errors import DataError
from .packed.images import PackedImages
from .packed.index import INDEX
from .pixels import decoder

Channels = tuple[float, ...]
"""One number per channel, in units of the [0, 1] pixel range."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: `images` uint8 `(n, c, h, w)`, or what stands for them; `labels` int64 `(n,)`."""

    images: np.ndarray | PackedImages
    labels: np.ndarray
    files: np.ndarray | None = None
    """Text `(n,)`: what a message calls each image; None where nobody could look at one."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray | slice) -> "Split":
        """The images at `indices`, in that order."""
        files = None if self.files is None else self.files[indices]
        if isinstance(self.images, PackedImages):
            return Split(self.images.take(indices), self.labels[indices], files)
        return Split(self.images[indices], self.labels[indices], files)


@dataclass(frozen=True)
class PackedForm:
    """That images are packed rather than held in memory: where, how many, and why."""

    folder: Path
    images: int
    encoded_bytes: int
    """Of the files that are packed; 0 where they are not files."""
    decoded_bytes: int
    """What they would take in memory."""
    room: int
    """Bytes that they could have there."""
    grey: bool
    """Whether the first of them is grey."""

    @property
    def made(self) -> bool:
        """Whether they are packed already."""
        return (self.folder / INDEX).exists()


@dataclass(frozen=True, eq=False)
class Source:
    """What a data set's files hold, before the settings divide it.

    `validation` and `test` are None where the files have no such split. `official_order` says
    that the order of the training files means something, so that "the last 5,000" is the
    split that papers use; elsewhere (a folder sorted by class) it must not decide.
    `normalisation` is the published (mean, std), or None to measure it.

    >>> images, labels = np.zeros((4, 3, 8, 8), dtype=np.uint8), np.array([0, 1, 0, 1])
    >>> Source(Split(images, labels), None, class_names=("cat", "dog"), official_order=False).train.labels
    array([0, 1, 0, 1])
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    official_order: bool
    validation: Split | None = None
    normalisation: tuple[Channels, Channels] | None = None
    findings: tuple[str, ...] = ()
    """What a person should know who has not looked at the files: a sentence each, naming one."""
    packed: PackedForm | None = None
    """Where the images are not in memory."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images of one experiment.

    `mean` and `std` are per channel, of pixels in [0, 1].
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: Channels
    std: Channels
    findings: tuple[str, ...] = ()
    """What is odd about the files: see `ekd_train.data.findings`."""
    packed: PackedForm | None = None
    """Where the images are not in memory."""

    def without_test_images(self) -> "Dataset":
        """The same data set, under the same fingerprint, with an empty test split: what a search may see."""
        seen = replace(self, test=self.test.take(slice(0)))
        vars(seen)["fingerprint"] = self.fingerprint  # where `cached_property` keeps it
        return seen

    def packed_in(self, folder: Path) -> "Dataset":
        """The same data set, whose packed images lie in `folder`."""

        def moved(split: Split) -> Split:
            assert isinstance(split.images, PackedImages)
            return replace(split, images=replace(split.images, folder=folder))

        train, validation, test = moved(self.train), moved(self.validation), moved(self.test)
        made = replace(self, train=train, validation=validation, test=test)
        vars(made)["fingerprint"] = self.fingerprint  # without its test images, too
        return made

    @property
    def num_classes(self) -> int:
        """How many classes the labels can name."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)` of every image of every split."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) over class names and the exact images and labels of the three splits.

        Equal on every machine; any changed pixel, label, order or split changes it. Of packed images the
        encoded bytes count, and what decoding depends on.
        """
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        for split in (self.train, self.validation, self.test):
            if isinstance(split.images, PackedImages):
                digest.update(split.images.identity())
            else:
                digest.update(repr(split.images.shape).encode())
                digest.update(np.ascontiguousarray(split.images, dtype=np.uint8).data)
            digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
        return digest.hexdigest()

    @property
    def short_fingerprint(self) -> str:
        """The first 12 hex digits of `fingerprint`, for tables and names."""
        return self.fingerprint[:12]


def describe(dataset: Dataset) -> DataDescription:
    """Sizes, shape, classes and fingerprint of a data set."""
    return DataDescription(
        name=dataset.name,
        train=len(dataset.train),
        validation=len(dataset.validation),
        test=len(dataset.test),
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        fingerprint=dataset.fingerprint,
        decoder=decoder() if dataset.packed is not None else None,
    )


def checked_split(images: np.ndarray, labels: np.ndarray, num_classes: int, where: str | Path) -> Split:
    """A split whose labels fit its images and the classes.

    Raises:
        DataError: naming `where`, when counts differ, there is no image, or a label is not in
            `range(num_classes)`.
    """
    labels = np.asarray(labels)
    if len(images) != len(labels):
        raise DataError(where, f"has {len(labels)} labels for {len(images)} images", "fetch the files again")
    if len(labels) == 0:
        raise DataError(where, "has no images", "fetch the files again")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            where,
            f"label {labels[wrong[0]]} of image {wrong[0]} is outside the {num_classes} classes "
            f"0 to {num_classes - 1}",
            "correct the labels or fetch the files again",
        )
    return Split(np.ascontiguousarray(images, dtype=np.uint8), labels.astype(np.int64))


def channel_statistics(images: np.ndarray) -> tuple[Channels, Channels]:
    """Mean and population standard deviation per channel of uint8 `(n, c, h, w)`, as pixels in [0, 1].

    Counts grey levels and sums them as integers, so that the result does not depend on the
    machine's summation order. A constant channel gets std 1: normalising it then changes
    nothing but its level.
    """
    means, stds = [], []
    for channel in range(images.shape[1]):
        histogram = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 4096):  # bincount widens to int64: keep that small
            histogram += np.bincount(images[start : start + 4096, channel].ravel(), minlength=256)
        count = int(histogram.sum())
        total = sum(level * int(n) for level, n in enumerate(histogram))
        squares = sum(level**2 * int(n) for level, n in enumerate(histogram))
        variance = (squares * count - total**2) / count**2
        means.append(total / count / 255)
        stds.append(variance**0.5 / 255 or 1.0)
    return tuple(means), tuple(stds)

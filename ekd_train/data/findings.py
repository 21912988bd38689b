"""What is odd about somebody's images, said before anything is trained on them."""

import hashlib
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .dataset import Split
from .packed.images import PackedImages

FEW_IMAGES = 10
"""A class of fewer training images is named."""

IMBALANCE = 10
"""The largest class has so many times the images of the smallest: accuracy alone would mislead."""

FLAT_GREY_LEVELS = 2
"""Between an image's darkest and brightest value: it shows nothing."""


def findings_of(train: Split, validation: Split, test: Split, class_names: tuple[str, ...]) -> list[str]:
    """Copies across splits and classes, classes too small, empty images, names easily mistaken.

    A sentence each, with the files to look at. None of images that no file shows (`Split.files` is None).
    """
    if train.files is None:
        return []
    splits = {"train": train, "validation": validation, "test": test}
    return [
        *_copies(splits, class_names),
        *_sizes(train, class_names),
        *_flat(splits),
        *_names(class_names),
    ]


def _copies(splits: dict[str, Split], class_names: tuple[str, ...]) -> Iterator[str]:
    seen: dict[bytes, tuple[str, int, int]] = {}
    torn: list[tuple[str, str]] = []
    for split, images in splits.items():
        elsewhere: dict[str, int] = {}
        example = ""
        for row, (key, label) in enumerate(zip(_keys(images), images.labels.tolist(), strict=True)):
            first_split, first_row, first_label = seen.setdefault(key, (split, row, label))
            if (first_split, first_row) == (split, row):
                continue
            here, there = _file(images, row), _file(splits[first_split], first_row)
            if first_split != split:
                elsewhere[first_split] = elsewhere.get(first_split, 0) + 1
                example = example or f"{here} and {there}"
            if first_label != label:
                torn.append((f"{there} ({class_names[first_label]})", f"{here} ({class_names[label]})"))
        if elsewhere:
            count = sum(elsewhere.values())
            where = " and ".join(f"{number} in {name}" for name, number in elsewhere.items())
            yield (
                f"{count} of {len(images)} {split} images are in another split too ({where}), "
                f"such as {example}: what is measured on them says too much"
            )
    if torn:
        yield f"{len(torn)} images are in two classes, such as {torn[0][0]} and {torn[0][1]}: one is wrong"


def _keys(split: Split) -> Iterator[bytes]:
    """What two images have in common that are the same: pixels or, of packed ones, encoded bytes."""
    if isinstance(split.images, PackedImages):
        yield from (digest.tobytes() for digest in split.images.digests())
    else:
        for image in split.images:
            yield hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _file(split: Split, row: int) -> str:
    return "?" if split.files is None else str(split.files[row])


def _sizes(train: Split, class_names: tuple[str, ...]) -> Iterator[str]:
    counts = np.bincount(train.labels, minlength=len(class_names))
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] >= IMBALANCE * max(int(counts[smallest]), 1):
        yield (
            f"the classes are imbalanced: {counts[largest]} training images of {class_names[largest]!r}, "
            f"{counts[smallest]} of {class_names[smallest]!r}; balanced accuracy and recalls say more"
        )
    elif counts[smallest] < FEW_IMAGES:
        yield f"class {class_names[smallest]!r} has {counts[smallest]} training images, which is very few"


def _flat(splits: dict[str, Split]) -> Iterator[str]:
    for split, images in splits.items():
        if isinstance(images.images, PackedImages):
            continue  # it would have to be decoded
        pixels = images.images.reshape(len(images), -1)
        if not pixels.size:
            continue
        flat = np.flatnonzero(pixels.max(1) - pixels.min(1) <= FLAT_GREY_LEVELS)
        if len(flat):
            yield f"{len(flat)} {split} images are of one colour, such as {_file(images, int(flat[0]))}"


def _names(class_names: tuple[str, ...]) -> Iterator[str]:
    numbers = [int(name) for name in class_names if name.isdecimal()]
    if any(first > second for first, second in pairwise(numbers)):
        first = ", ".join(class_names[:6]) + ", ..." * (len(class_names) > 6)
        yield f"the classes' names are sorted as text, not as numbers: {first}"
    plain: dict[str, str] = {}
    for name in class_names:
        other = plain.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            yield f"classes {other!r} and {name!r} differ only in case, blanks or Unicode form: are they one?"

"""Folders of images, one folder per class: which files there are and what they are labelled."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"})


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Paths of n images, and their labels: int64 `(n,)`."""

    paths: list[Path]
    labels: np.ndarray


def class_names(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `folder`, sorted; label i is the i-th.

    Raises:
        DataError: the folder is missing, unreadable or without class folders, or something
            else than folders lies in it.
    """
    entries = _entries(folder)
    for entry in entries:
        if not os.path.isdir(entry):
            raise DataError(entry, "is not a folder, though it lies among class folders", "move it elsewhere")
    if not entries:
        raise DataError(folder, "has no class folders", "put one folder of images per class there")
    return tuple(entry.name for entry in entries)


def labelled_files(folder: Path, names: tuple[str, ...], inner: str = "") -> ImageFiles:
    """The images of every class, class by class and sorted by file name.

    Classes are the folders `folder/<name>`, or `folder/<name>/<inner>` where images lie one
    level deeper. They must be exactly `names`, which training's folders fix for every split.

    Raises:
        DataError: a class has no folder or no image, a folder is not one of the classes, or a
            file is not an image.
    """
    for found in class_names(folder):
        if found not in names:
            raise DataError(
                folder / found, "is not one of the classes in train", "add it there or remove it here"
            )
    per_class = [image_files(folder / name / inner) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in per_class])
    return ImageFiles([path for paths in per_class for path in paths], labels)


def _mode(path: Path) -> int:
    """The kind of a file; of what cannot be asked, reading it will say more."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return stat.S_IFREG


def image_files(folder: Path) -> list[Path]:
    """Every image in a folder (not deeper), sorted by name; hidden files are passed over.

    Raises:
        DataError: the folder is missing, unreadable or empty, or holds anything but images. A
            folder within is refused too, so that a symbolic link cannot lead round in circles.
    """
    paths = _entries(folder)
    for path in paths:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise DataError(path, "is a folder among images", "put images directly into their class folder")
        if not stat.S_ISREG(mode):  # a pipe would be waited for, for ever
            raise DataError(path, "is not a regular file", "move it elsewhere")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(path, f"is not an image ({' '.join(sorted(SUFFIXES))})", "move it elsewhere")
    if not paths:
        raise DataError(folder, "has no images", "add images or remove the folder")
    return paths


def _entries(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        raise DataError(folder, "does not exist", "check data.root and its layout") from None
    except OSError as error:
        raise DataError(
            folder, f"cannot be read as a folder ({error.strerror})", "check the folder and its permissions"
        ) from error
    for name in names:
        if any("\ud800" <= c <= "\udfff" for c in name):  # how Python shows bytes that are not UTF-8
            raise DataError(folder, f"holds {name!r}, whose name is not UTF-8", "rename it")
    return [folder / name for name in names]

"""Folders of images, one folder per class: which files there are and what they are labelled."""

import os
import unicodedata
from pathlib import Path

import numpy as np

from .errors import DataError
from .image_files import SUFFIXES, ImageFiles, check_image_file, entries, files_at, scanned


def class_folders(folder: Path) -> dict[str, Path]:
    """The class folders in `folder`, sorted by name as text; label i is the i-th.

    Names are compared in Unicode's composed form (NFC): macOS writes the other one.

    Raises:
        DataError: the folder is missing, unreadable or without class folders, images lie in it beside
            them, or two folders have one name.
    """
    found: dict[str, Path] = {}
    for entry in entries(folder):
        if not os.path.isdir(entry):
            if entry.suffix.lower() not in SUFFIXES:
                continue  # a list of classes, a licence
            raise DataError(entry, "is an image, though it lies among class folders", "move it elsewhere")
        name = unicodedata.normalize("NFC", entry.name)
        if name in found:
            raise DataError(entry, f"is {found[name].name!r} in another Unicode form", "join the two folders")
        found[name] = entry
    if not found:
        raise DataError(folder, "has no class folders", "put one folder of images per class there")
    return dict(sorted(found.items()))


def labelled_files(folder: Path, names: tuple[str, ...], inner: str = "") -> ImageFiles:
    """The images of every class, class by class and sorted by file name.

    Classes are the folders `folder/<name>`, or `folder/<name>/<inner>` where images lie one
    level deeper. They must be exactly `names`, which training's folders fix for every split.

    Raises:
        DataError: a class has no folder or no image, a folder is not one of the classes, or a
            file is not an image.
    """
    found = class_folders(folder)
    for name, path in found.items():
        if name not in names:
            raise DataError(path, "is not one of the classes in train", "add it there or remove it here")
    per_class = [image_files(found.get(name, folder / name) / inner) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in per_class])
    return files_at([path for paths in per_class for path in paths], labels)


def image_files(folder: Path) -> list[str]:
    """The path of every image in a folder (not deeper), sorted by name.

    Raises:
        DataError: the folder is missing, unreadable or empty, or holds anything but images.
    """
    paths = []
    for entry in scanned(folder):
        # What the folder itself says of a file is enough for nearly all: there may be a million.
        if not (entry.is_file(follow_symlinks=False) and os.path.splitext(entry.name)[1].lower() in SUFFIXES):
            check_image_file(Path(entry.path))
        paths.append(entry.path)
    if not paths:
        raise DataError(folder, "has no images", "add images or remove the folder")
    return paths

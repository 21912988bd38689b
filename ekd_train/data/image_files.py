"""Encoded images and their labels: where they lie, before any of them is decoded."""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"})

LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
"""What Windows, macOS and network disks leave in folders of images; passed over, as hidden files are."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One encoded image."""

    name: str
    """What a message calls it."""
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N encoded images."""

    names: Sequence[str]
    """What a message calls each of them: its path, or its row."""
    open: Callable[[int], BinaryIO]
    """The encoded bytes of image i."""
    labels: np.ndarray
    """Int64 `(n,)`."""
    stamp: Callable[[], tuple[str, int]]
    """What tells these files from others without reading them (hexadecimal), and their bytes in all."""

    def image(self, index: int) -> Encoded:
        """Image `index`."""
        return Encoded(self.names[index], lambda: self.open(index))


@dataclass(frozen=True, eq=False)
class Listing:
    """The encoded images of a data set."""

    where: str | Path
    """What a message calls all of it."""
    splits: Mapping[str, ImageFiles]
    """`train`, and `validation` and `test` where the data has such a split."""
    class_names: tuple[str, ...]
    findings: tuple[str, ...] = ()
    """What a person should know who has not looked: a sentence each, naming a file."""


def files_at(paths: Sequence[str], labels: np.ndarray) -> ImageFiles:
    """The images at `paths`."""
    return ImageFiles(paths, lambda index: open(paths[index], "rb"), labels, lambda: stamp_of(paths))


def stamp_of(paths: Sequence[str]) -> tuple[str, int]:
    """A hash of the files' names, sizes and times of change, in order, and their bytes in all.

    Of folders only the nearest one counts, so that a copy elsewhere, times kept, has the same stamp.
    """
    digest, total, before, nearest = hashlib.sha256(), 0, None, ""
    for path in paths:
        folder, _, name = path.rpartition(os.sep)
        if folder != before:  # there may be a million files
            before, nearest = folder, os.path.basename(folder)
        try:
            found = os.stat(path)
            total += found.st_size
            said = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:  # reading it will say more
            said = "?"
        digest.update(f"{nearest}/{name}\0{said}\n".encode(errors="surrogateescape"))
    return digest.hexdigest(), total


def check_image_file(path: Path) -> None:
    """Raise `DataError` if `path` is no regular file with the suffix of an image; it is not read."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # of what cannot be asked, reading it will say more
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        # Refused, so that a symbolic link cannot lead round in circles.
        raise DataError(path, "is a folder among images", "put images directly into their class folder")
    if not stat.S_ISREG(mode):  # a pipe would be waited for, for ever
        raise DataError(path, "is not a regular file", "move it elsewhere")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            path, f"is not an image ({' '.join(sorted(SUFFIXES))})", "convert it, or move it elsewhere"
        )


def entries(folder: Path) -> list[Path]:
    """What lies in `folder`; see `scanned`."""
    return [folder / entry.name for entry in scanned(folder)]


def scanned(folder: Path) -> list["os.DirEntry[str]"]:
    """What lies in `folder`, sorted by name, without hidden files and what systems leave behind.

    Raises:
        DataError: the folder is missing or unreadable, or a name is not UTF-8.
    """
    try:
        with os.scandir(folder) as found:
            kept = [
                entry
                for entry in found
                if not entry.name.startswith(".") and entry.name.lower() not in LEFT_BY_SYSTEMS
            ]
    except FileNotFoundError:
        place = "" if folder.is_absolute() else f" in {os.getcwd()}"
        raise DataError(folder, f"does not exist{place}", "check data.root and its layout") from None
    except OSError as error:
        raise DataError(
            folder, f"cannot be read as a folder ({error.strerror})", "check the folder and its permissions"
        ) from error
    kept.sort(key=lambda entry: entry.name)
    for entry in kept:
        try:
            entry.name.encode()
        except UnicodeEncodeError:  # bytes that are not UTF-8, as Python shows them
            raise DataError(folder, f"holds {entry.name!r}, whose name is not UTF-8", "rename it") from None
    return kept

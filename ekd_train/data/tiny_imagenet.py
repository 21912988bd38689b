"""Tiny ImageNet: 200 classes of 500 + 50 colour 64x64 images (Le and Yang, 2015)."""

import os
from pathlib import Path

import numpy as np

from ekd_train.regular_file import open_regular
from ekd_train.settings import DataSettings

from .dataset import Channels, Source
from .download import DEFAULT_ROOT
from .errors import DataError
from .image_decoding import decode
from .image_files import ImageFiles, Listing, files_at
from .image_tree import class_folders, image_files, labelled_files

MOST_TEXT_BYTES = 64 << 20
"""Of `words.txt`, which has 2.6 MB, and of the annotations."""
NORMALISATION: tuple[Channels, Channels] = ((0.4802, 0.4481, 0.3976), (0.2770, 0.2691, 0.2822))
"""Mean and standard deviation as the LatentBE authors' code has them."""


def load_tiny_imagenet(settings: DataSettings) -> Source:
    """Read `train/<wnid>/images/*` and `val/images/*` as the published archive unpacks.

    The labels of the official test images are not public. So, as is usual, `val` is the
    **test** split, and validation images are held out of training, class-balanced. Labels
    number the sorted wnids; class names come from `words.txt`. Looked for in
    `data.root/tiny-imagenet-200`, in `data.root`, and by default under `data/`.

    Raises:
        DataError: a file is missing, damaged or unlabelled.
    """
    root = Path(settings.root or DEFAULT_ROOT)
    folder = root / "tiny-imagenet-200" if os.path.exists(root / "tiny-imagenet-200") else root
    wnids = tuple(class_folders(folder / "train"))
    files = {
        "train": labelled_files(folder / "train", wnids, inner="images"),
        "test": _annotated(folder / "val", wnids),
    }
    words = dict(_columns(folder / "words.txt"))
    listing = Listing(folder, files, tuple(words.get(wnid, wnid) for wnid in wnids))
    return decode(listing, settings, NORMALISATION)


def _annotated(folder: Path, wnids: tuple[str, ...]) -> ImageFiles:
    """The images of `val`, labelled by `val_annotations.txt` (file, wnid, then a bounding box)."""
    annotations = folder / "val_annotations.txt"
    wnid_of = dict(_columns(annotations))
    paths = image_files(folder / "images")
    names = [Path(path).name for path in paths]
    labels = []
    for name in names:
        if name not in wnid_of:
            raise DataError(annotations, f"has no line for {name}", "fetch the archive again")
        if wnid_of[name] not in wnids:
            raise DataError(
                annotations, f"labels {name} {wnid_of[name]}, which is not a class in train", "correct it"
            )
        labels.append(wnids.index(wnid_of[name]))
    missing = wnid_of.keys() - set(names)
    if missing:
        raise DataError(
            folder / "images" / min(missing), "does not exist, though annotated", "fetch the archive again"
        )
    return files_at(paths, np.array(labels))


def _columns(path: Path) -> list[tuple[str, str]]:
    """The first two tab-separated columns of a text file."""
    try:
        if path.stat().st_size > MOST_TEXT_BYTES:
            raise DataError(path, f"is larger than {MOST_TEXT_BYTES >> 20} MiB", "fetch the archive again")
        with open_regular(path) as file:
            lines = file.read().decode().splitlines()
    except FileNotFoundError:
        raise DataError(path, "does not exist", "check data.root, or fetch the archive again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "fetch the archive again") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        first, tab, rest = line.partition("\t")
        if not tab:
            raise DataError(path, f"line {number} has no tab-separated columns", "fetch the archive again")
        pairs.append((first, rest.split("\t")[0].strip()))
    return pairs

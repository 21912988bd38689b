"""Your own images: one folder per class."""

import os
from pathlib import Path

from ekd_train.settings import DataSettings

from .dataset import Source
from .errors import DataError
from .image_decoding import decode_splits
from .image_tree import class_names, labelled_files

VALIDATION_FOLDERS = ("validation", "val")


def load_image_folder(settings: DataSettings) -> Source:
    """Read `root/train/<class>/*`, and `root/validation` (or `val`) and `root/test` alike if there.

    Classes are the sorted folder names of `train`. A validation or test folder is used whole;
    a split that has no folder is held out of training, class-balanced, as
    `data.validation_size` and `data.test_size` say.

    Raises:
        DataError: `data.root` is not set, the layout is another, or a file is unusable.
    """
    if settings.root is None:
        raise DataError(
            "data.root", "is needed for image_folder", "set it to the folder that holds train/<class>/*"
        )
    root = Path(settings.root)
    names = class_names(root / "train")
    folders = {"train": root / "train"}
    for split, candidates in (("validation", VALIDATION_FOLDERS), ("test", ("test",))):
        for folder in (root / candidate for candidate in candidates):
            if os.path.exists(folder):
                folders.setdefault(split, folder)
    files = [labelled_files(folder, names) for folder in folders.values()]
    splits = dict(zip(folders, decode_splits(files, root, settings), strict=True))
    return Source(
        train=splits["train"],
        test=splits.get("test"),
        class_names=names,
        official_order=False,
        validation=splits.get("validation"),
    )

"""Your own images: one folder per class."""

import os
from pathlib import Path

from ekd_train.settings import DataSettings

from .errors import DataError
from .image_files import SUFFIXES, Listing, entries
from .image_tree import class_folders, labelled_files
from .split_names import SPLIT_NAMES, split_of


def list_image_folder(settings: DataSettings) -> Listing:
    """List `root/train/<class>/*`, and validation and test folders alike if there; else `root/<class>/*`.

    A split's folder may have any of the names of `SPLIT_NAMES`. Classes are the sorted folder names of
    `train`. A validation or test folder is used whole; a split that has no folder is held out of
    training, class-balanced, as `data.validation_size` and `data.test_size` say.

    Raises:
        DataError: `data.root` is not set, the layout is another, or a file is unusable.
    """
    if settings.root is None:
        raise DataError(
            "data.root", "is needed for image_folder", "set it to the folder that holds train/<class>/*"
        )
    root = Path(settings.root)
    folders, others = _split_folders(root)
    names = tuple(class_folders(folders["train"]))
    findings = _about(others, names)
    splits = {split: labelled_files(folder, names) for split, folder in folders.items()}
    return Listing(root, splits, names, tuple(findings))


def _split_folders(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """The folder of each split, and the folders beside them; `root` itself is `train` if none is there."""
    folders: dict[str, Path] = {}
    others = []
    for entry in entries(root):
        split = split_of(entry.name)
        if not os.path.isdir(entry):
            continue  # a list of classes, a licence
        if split is None:
            others.append(entry)
        elif split in folders:
            raise DataError(entry, f"is a second {split} split beside {folders[split].name}", "join the two")
        else:
            folders[split] = entry
    if not folders and any(path.suffix.lower() in SUFFIXES for other in others for path in entries(other)):
        return {"train": root}, []
    if "train" not in folders and (there := [*folders.values(), *others]):
        names = ", ".join(entry.name for entry in there[:5]) + ("..." if len(there) > 5 else "")
        raise DataError(
            root,
            f"has no folder train, but {names}",
            f"name the one to learn from train, the others {', '.join(list(SPLIT_NAMES)[1:])}",
        )
    folders.setdefault("train", root / "train")
    return {split: folders[split] for split in SPLIT_NAMES if split in folders}, others


def _about(others: list[Path], names: tuple[str, ...]) -> list[str]:
    """What is said of folders that are no split.

    Raises `DataError` for one that holds classes of `names`: it looks like a split, and which is not known.
    """
    for folder in others:
        if any(entry.name in names for entry in entries(folder)):
            raise DataError(
                folder, "holds class folders but is no known split", "call it train, validation or test"
            )
    return [f"{folder} is no split and is not used" for folder in others]

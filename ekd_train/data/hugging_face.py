"""Data sets of the Hugging Face hub, or of a folder that its `datasets` library reads."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np

from ekd_train.settings import DataSettings

from .errors import DataError
from .image_files import ImageFiles, Listing, stamp_of
from .split_names import split_of


def list_hugging_face(settings: DataSettings) -> Listing:
    """The images of `data.path`: a folder of parquet files or images (below `data.root`), or `owner/name`.

    `datasets` keeps what it fetches in its own cache (HF_HOME), and reads it there when offline. Columns
    are found by their kind: the only one of images, the only one of class labels, else the one called
    `label`. Classes are in the data set's own order where it names them.

    Raises:
        DataError: the data is missing, the splits or columns cannot be told, or labels are
            hidden.
    """
    if settings.path is None:
        raise DataError("data.path", "is needed for hugging_face", "set it to owner/name or a folder")
    folder = Path(settings.root or ".") / settings.path
    # Whole: a folder that is called `parquet` would be taken for the library's reader of that name.
    found = _load(str(folder.resolve()) if folder.is_dir() else settings.path)
    splits: dict[str, Any] = {}
    findings = []
    for name, rows in found.items():
        split = split_of(name)
        if split is None:
            findings.append(f"{settings.path} has a split {name!r}, which is not used")
        elif split in splits:
            raise DataError(settings.path, f"has two {split} splits", "keep one of them")
        else:
            splits[split] = rows
    if "train" not in splits:
        raise DataError(
            settings.path, f"has no split `train` (but {', '.join(found)})", "use another data set"
        )
    image_column, label_column = _columns(settings, splits["train"].features)
    names = _class_names(splits["train"], label_column)
    listed = {}
    for split, rows in splits.items():
        labels = _labels(rows, label_column, names, settings.path)
        if split != "train" and (labels < 0).all():
            findings.append(f"{settings.path} hides the labels of its split {split!r}, which is not used")
        else:
            listed[split] = _files(rows, image_column, labels, f"{settings.path}/{split}")
    return Listing(settings.path, listed, names, tuple(findings))


def _load(path: str) -> dict[str, Any]:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in its exceptions
    try:
        found = datasets.load_dataset(path)
    except Exception as error:  # of the hub, the network, the file system, or a parser
        remedy = (
            "check the folder"
            if Path(path).exists()
            else "check the name; offline, fetch it where there is a network and set HF_HOME to that cache"
        )
        raise DataError(path, f"cannot be loaded ({type(error).__name__}: {error})", remedy) from error
    return dict(found)


def _columns(settings: DataSettings, features: Any) -> tuple[str, str]:
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = classes if len(classes) == 1 else [name for name in features if name == "label"]
    chosen = []
    for key, written, candidates in (
        ("data.image_column", settings.image_column, images),
        ("data.label_column", settings.label_column, labels),
    ):
        column = written or (candidates[0] if len(candidates) == 1 else None)
        if column is None or column not in features:
            raise DataError(key, f"is not one of the columns {', '.join(features)}", "set it to one of them")
        chosen.append(column)
    if chosen[0] not in images:
        raise DataError(
            "data.image_column", f"{chosen[0]!r} does not hold images", "set it to another column"
        )
    return chosen[0], chosen[1]


def _class_names(rows: Any, column: str) -> tuple[str, ...]:
    names = getattr(rows.features[column], "names", None)
    values = rows.unique(column) if names is None else names
    return tuple(map(str, sorted(values) if names is None else values))


def _labels(rows: Any, column: str, names: tuple[str, ...], path: str) -> np.ndarray:
    """Int64 `(n,)`; -1 where the data set hides a label."""
    values = rows[column]
    if getattr(rows.features[column], "names", None) is not None:
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    number = {name: index for index, name in enumerate(names)}
    unknown = {str(value) for value in values} - number.keys()
    if unknown:
        raise DataError(path, f"has a class {min(unknown)!r} that no training image is of", "remove it")
    return np.array([number[str(value)] for value in values], dtype=np.int64)


def _files(rows: Any, column: str, labels: np.ndarray, name: str) -> ImageFiles:
    encoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def open_encoded(index: int) -> BinaryIO:
        image = encoded[index][column]
        return io.BytesIO(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).open("rb")

    def stamp() -> tuple[str, int]:
        # Of data in memory there are no files: another process has other data, and packs it again.
        found = stamp_of([file["filename"] for file in rows.cache_files])
        return (found[0] if found[1] else f"{os.getpid()} {id(rows)}"), found[1]

    return ImageFiles([f"{name}[{index}]" for index in range(len(labels))], open_encoded, labels, stamp)

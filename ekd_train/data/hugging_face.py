"""Data sets of the Hugging Face hub, or of a folder that its `datasets` library reads."""

import glob
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import yaml
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ekd_train.regular_file import open_regular
from ekd_train.settings import DataSettings

from .dataset_library import load, load_from_hub
from .errors import DataError
from .hub import hub_name
from .image_files import ImageFiles, Listing, check_image_file, stamp_of
from .local_splits import split_patterns
from .split_names import MOST_VALUES, split_of, tell_splits

DESCRIPTIONS = ("README.md", ".huggingface.yaml")
"""Of a folder, in which `datasets` looks for where its data is."""

MOST_CHARACTERS = 1_000_000
"""Of one of them."""

LOOKED_AT = 1000
"""Rows of a column of text, before all of its values are."""

CACHES = (
    HF_HUB_CACHE,
    datasets.config.HF_DATASETS_CACHE,
    datasets.config.DOWNLOADED_DATASETS_PATH,
    datasets.config.EXTRACTED_DATASETS_PATH,
)
"""Where `datasets` puts the files of a hub's data set, and what it unpacks of archives."""


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
    findings: list[str] = []
    if (on_hub := hub_name(settings)) is not None:
        found = load_from_hub(on_hub)
    elif folder.is_dir():
        _refuse_saved(folder)
        patterns, findings = _split_patterns(folder, settings.path)
        # Whole: a folder that is called `parquet` would be taken for the library's reader of that name.
        found = load(str(folder.resolve()), patterns)
    else:
        here = f", and {settings.path} is something where this process is" * Path(settings.path).exists()
        raise DataError(
            folder, f"is no folder, and no `owner/name` of the hub{here}", "set data.root or data.path"
        )
    splits: dict[str, Any] = {}
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
    _check_no_splits_within(splits["train"], {image_column, label_column}, settings.path)
    names = _class_names(splits["train"], label_column)
    listed = {}
    for split, rows in splits.items():
        labels = _labels(rows, label_column, names, settings.path)
        if split != "train" and (labels == -1).all():
            findings.append(f"{settings.path} hides the labels of its split {split!r}, which is not used")
        elif len(odd := np.flatnonzero((labels < 0) | (labels >= len(names)))):
            raise DataError(
                f"{settings.path}/{split}[{odd[0]}]",
                f"has no label, or one that is none of the {len(names)} classes",
                "remove it, or set data.label_column",
            )
        else:
            roots = CACHES if on_hub else (folder, *CACHES)
            listed[split] = _files(rows, image_column, labels, f"{settings.path}/{split}", roots)
    return Listing(settings.path, listed, names, tuple(findings))


def _refuse_saved(folder: Path) -> None:
    """Raise `DataError` for what `save_to_disk` has written, which `load_dataset` does not read."""
    if (folder / "dataset_dict.json").exists():
        way = "for name, rows in datasets.load_from_disk(FOLDER).items(): rows.to_parquet(f'{name}.parquet')"
    elif (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
        way = "datasets.load_from_disk(FOLDER).to_parquet('train.parquet')"
    else:
        return
    raise DataError(folder, "was written by save_to_disk", f"save it as parquet, in another folder: {way}")


def _split_patterns(folder: Path, where: str) -> tuple[dict[str, list[str]] | None, list[str]]:
    """As `split_patterns`, within the folder that a description names; None: one names the files."""
    described = _described(folder)
    if any(key == "data_files" for key, _ in described):
        return None, []
    inner = dict.fromkeys(place for _, place in described)
    if len(inner) > 1:
        raise DataError(
            folder, f"describes several folders: {', '.join(inner)}", "set data.path to one of them"
        )
    below = "".join(inner)
    patterns, findings = split_patterns(folder / below, where)
    start = f"{glob.escape(below)}/" if below else ""
    return {split: [f"{start}{each}" for each in found] for split, found in patterns.items()}, findings


def _described(folder: Path) -> list[tuple[str, str]]:
    """What the descriptions in a folder name as data: `data_files` or `data_dir`, and the place.

    Raises `DataError` if one is elsewhere: a file, or a server.
    """
    described = []
    for name in DESCRIPTIONS:
        try:
            with io.TextIOWrapper(open_regular(folder / name), encoding="utf-8") as file:
                text = file.read(MOST_CHARACTERS + 1)
        except OSError:  # there is none, or reading the data will say more
            continue
        except ValueError as error:
            raise DataError(folder / name, f"is no text ({error})", "remove it") from None
        if len(text) > MOST_CHARACTERS:
            raise DataError(folder / name, f"is longer than {MOST_CHARACTERS} characters", "shorten it")
        try:
            head = REGEX_YAML_BLOCK.search(text)
            named = list(_data_named(head[2] if head else "" if name.endswith(".md") else text))
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise DataError(
                folder / name, f"is not readable as YAML ({type(error).__name__})", "mend it"
            ) from None
        described += named
        for _, place in named:
            if ":" in place or ".." in place.split("/") or place.startswith(("/", "~", "\\")):
                raise DataError(
                    folder / name,
                    f"names data at {place[:200]!r}, which is not below {folder}",
                    "put it there",
                )
    return described


def _data_named(text: str) -> Iterator[tuple[str, str]]:
    """The text of whatever stands below a key for data, after the outermost such key.

    The tree is looked at as it is written: an alias is the same node again, and not gone through twice.
    """
    seen: set[tuple[int, str]] = set()
    waiting = [(yaml.compose(text, Loader=yaml.SafeLoader), "")]
    while waiting:
        node, of = waiting.pop()
        if node is None or (id(node), of) in seen:
            continue
        seen.add((id(node), of))
        if isinstance(node, yaml.ScalarNode) and of:
            yield of, node.value
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(item, of) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            waiting += [
                (item, of or (key.value if key.value in ("data_files", "data_dir") else ""))
                for key, item in node.value
            ]


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


def _check_no_splits_within(rows: Any, used: set[str], path: str) -> None:
    """Raise `DataError` if another column of the training rows says that some are of another split."""
    for column, kind in rows.features.items():
        if column in used:
            continue
        values: list[Any] = []
        if isinstance(kind, datasets.ClassLabel):
            values = [kind.names[value] for value in rows.unique(column) if value in range(len(kind.names))]
        elif isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string"):
            few = set(rows.select_columns([column])[:LOOKED_AT][column])
            values = rows.unique(column) if len(few) <= MOST_VALUES else []
        if tell_splits(values):
            raise DataError(
                path,
                f"has names of splits in its column {column!r}, which is not used",
                "save the rows of each split as a file of its own (train.parquet, test.parquet)",
            )


def _class_names(rows: Any, column: str) -> tuple[str, ...]:
    names = getattr(rows.features[column], "names", None)
    values = rows.unique(column) if names is None else names
    return tuple(map(_name, sorted(values) if names is None else values))


def _name(value: Any) -> str:
    """Of a class: 1, and not 1.0, where whole numbers are kept as fractions."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _labels(rows: Any, column: str, names: tuple[str, ...], path: str) -> np.ndarray:
    """Int64 `(n,)`; -1 where the data set hides a label."""
    values = rows[column]
    if getattr(rows.features[column], "names", None) is not None:
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    number = {name: index for index, name in enumerate(names)}
    unknown = {_name(value) for value in values} - number.keys()
    if unknown:
        raise DataError(path, f"has a class {min(unknown)!r} that no training image is of", "remove it")
    return np.array([number[_name(value)] for value in values], dtype=np.int64)


def _files(
    rows: Any, column: str, labels: np.ndarray, name: str, roots: tuple[str | Path, ...]
) -> ImageFiles:
    encoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def open_encoded(index: int) -> BinaryIO:
        image = encoded[index][column]
        if image["bytes"] is not None:
            return io.BytesIO(image["bytes"])
        return _opened(image["path"], f"{name}[{index}]", roots)

    def stamp() -> tuple[str, int]:
        # Of data in memory there are no files: another process has other data, and packs it again.
        found = stamp_of([file["filename"] for file in rows.cache_files])
        return (found[0] if found[1] else f"{os.getpid()} {id(rows)}"), found[1]

    return ImageFiles([f"{name}[{index}]" for index in range(len(labels))], open_encoded, labels, stamp)


def _opened(path: str, name: str, roots: tuple[str | Path, ...]) -> BinaryIO:
    """The file at `path`, which a row may name. Raises `DataError` for one that is below none of `roots`."""
    real = Path(path).resolve()
    if not any(real.is_relative_to(Path(root).resolve()) for root in roots):
        raise DataError(name, f"is at {path[:200]!r}, which is not below the data set", "put it there")
    check_image_file(real)
    return real.open("rb")

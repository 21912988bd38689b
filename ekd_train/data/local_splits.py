"""Which files of a folder are which split, told before the `datasets` library guesses.

It knows names of splits in lower case alone, takes the first way of naming them that finds a file, drops what
that way does not name, and takes everything for training where no way finds one.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .errors import DataError
from .image_files import SUFFIXES, entries
from .split_names import SPLIT_NAMES, split_of

IMAGES = SUFFIXES | {".gif", ".tif", ".tiff"}
TABLES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson"})
"""Text: a list of classes or licences as often as data, so they are data where their name is a split's."""
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z"})
DATA = IMAGES | ARCHIVES | {".parquet", ".arrow", ".h5", ".hdf5", ".lance", ".npz"}
ON_HUB = re.compile(r"hf://datasets/[^/]+/[^/]+/")
"""Before a file's own path on the hub: who has called himself `dev` has called no split so."""
METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
"""What the library reads beside images, of which it says more."""

REMEDY = f"name the one to learn from train, the others {' and '.join(list(SPLIT_NAMES)[1:])}"


def splits_named(name: str) -> set[str]:
    """The splits that the words of a file's or folder's name are names of.

    >>> splits_named("Test-00000-of-00001.parquet")
    {'test'}
    >>> splits_named("contest.parquet")
    set()
    """
    words = re.split(r"[^a-z]+", name.lower())
    return {split for word in words if (split := split_of(word)) is not None}


def split_patterns(folder: Path, where: str) -> tuple[dict[str, list[str]], list[str]]:
    """Of each split the patterns of its files, relative to `folder`; of what is passed over a sentence each.

    Splits are the folders or files that lie in `folder`, or in the only folder there that has data. Where no
    name is a split's all is `train`: class folders of images, images beside each other, or parts of one file.

    Args:
        folder: of parquet files, or images.
        where: what a message calls it.

    Raises:
        DataError: `folder` is unreadable, an entry may be data but which split it is of is not known, or
            two entries are the same split in different ways.
    """
    inner = folder
    while True:
        splits, others, lists = _told_apart(inner)
        if splits or len(others) != 1 or not others[0].is_dir():
            break
        inner = others[0]
    if not splits:
        _check_one_split(inner, others)
        return {"train": ["**"]}, []
    # A picture among folders of splits illustrates a description, or is what a row of parquet names.
    pictures = [path for path in others if _kind(path.name) in IMAGES and not path.is_dir()]
    if unknown := [path for path in others if path not in pictures]:
        more = f", nor are {len(unknown) - 1} more beside it" * (len(unknown) > 1)
        raise DataError(
            unknown[0],
            f"may be data but is no known split{more}",
            "call it train, validation or test, or move it elsewhere",
        )
    if "train" not in splits:
        there = [path for paths in splits.values() for path in paths]
        raise DataError(where, f"has no split `train` (but {_some(there)})", REMEDY)
    findings = [f"{path} is no split and is not used" for path in (*lists, *pictures)]
    return {
        split: [_pattern(path, folder) for path in _alike(split, splits[split])]
        for split in SPLIT_NAMES
        if split in splits
    }, findings


def check_files(files: Iterable[tuple[str, Iterable[str]]], base: str) -> None:
    """Raise `DataError` if a split has a file below a folder, or of a name, that is another split's.

    Args:
        files: by split, their paths or URIs, as the library has told them apart.
        base: what stands before the data set's own part of them.
    """
    for split, paths in files:
        for path in paths:
            parts = PurePosixPath(ON_HUB.sub("", path.removeprefix(base))).parts
            named = {found for part in parts[:-1] if (found := split_of(part)) is not None}
            if not named and parts and _kind(parts[-1]) not in IMAGES:
                named = splits_named(parts[-1])
            if named and split_of(split) is not None and split_of(split) not in named:
                raise DataError(
                    path,
                    f"is called {', '.join(sorted(named))}, but the library takes it for {split}",
                    "give a folder of your own that has train, validation and test, each in a folder",
                )


def _told_apart(folder: Path) -> tuple[dict[str, list[Path]], list[Path], list[Path]]:
    """The entries of each split, others that may be data, and tables that are probably none."""
    splits: dict[str, list[Path]] = {}
    others, lists = [], []
    for entry in entries(folder):
        kind = _kind(entry.name)
        is_folder = entry.is_dir()
        named = set() if kind in IMAGES and not is_folder else splits_named(entry.name)
        if is_folder:
            if next(_data_below(entry), None) is None:
                continue
        elif entry.name in METADATA or kind not in DATA | TABLES:
            continue  # a licence, a description
        elif kind in TABLES and not named:
            lists.append(entry)
            continue
        if len(named) > 1:
            raise DataError(entry, f"is called {' and '.join(sorted(named))} at once", REMEDY)
        if named:
            splits.setdefault(named.pop(), []).append(entry)
        else:
            others.append(entry)
    return splits, others, lists


def _check_one_split(folder: Path, entries_of_data: list[Path]) -> None:
    """Raise `DataError` unless what lies in `folder`, none of it called as a split, is one set of images."""
    if packed := [path for path in entries_of_data if not path.is_dir() and _kind(path.name) in ARCHIVES]:
        raise DataError(packed[0], "is an archive, in which splits are not looked for", "unpack it")
    for path in entries_of_data:
        inside = (
            [entry for entry in entries(path) if _kind(entry.name) in IMAGES] if path.is_dir() else [path]
        )
        if not inside:  # class folders have images in them, and no folders
            raise DataError(folder, f"has no folder train, but {_some(entries_of_data)}", REMEDY)
    files = [path for path in entries_of_data if not path.is_dir() and _kind(path.name) not in IMAGES]
    if len({re.sub(r"\d+", "", path.name.lower()) for path in files}) > 1:
        raise DataError(folder, f"has no split train, but {_some(files)}", REMEDY)
    called: dict[str, Path] = {}
    for path in (file for entry in entries_of_data for file in _data_below(entry)):
        names = [*path.relative_to(folder).parts]
        called.setdefault(" and ".join(sorted(splits_named(" ".join(names)))), path)
        if len(called) > 1:
            raise DataError(
                called[max(called)],
                f"is called {max(called)}, and others beside it are not",
                "put them into folders train, validation and test",
            )


def _alike(split: str, paths: list[Path]) -> list[Path]:
    """`paths`, if they are one folder, or files of one kind; raises `DataError`."""
    ways = {"/" if path.is_dir() else _kind(path.name) for path in paths}
    if len(ways) > 1 or (ways == {"/"} and len(paths) > 1):
        raise DataError(
            paths[1], f"is a second {split} split beside {paths[0].name}", "keep one of them, or join the two"
        )
    return paths


def _pattern(path: Path, folder: Path) -> str:
    within = glob.escape(path.relative_to(folder).as_posix())
    return f"{within}/**" if path.is_dir() else within


def _data_below(path: Path) -> Iterator[Path]:
    """`path` if it is a file, else what below it may be data; folders that are links are not gone through."""
    if not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (
            Path(folder, name)
            for name in sorted(names)
            if not name.startswith(".") and _kind(name) in DATA | TABLES and name not in METADATA
        )


def _kind(name: str) -> str:
    """The suffix that says what a file holds: of `train.csv.gz` the first that is known."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    return next((suffix for suffix in suffixes if suffix in DATA | TABLES), "")


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + ("..." if len(paths) > 5 else "")

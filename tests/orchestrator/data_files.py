"""Tiny files in the formats that the packaged experiments read."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

NEEDS = {"fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "image_folder"}


def write(name: str, root: Path, per_class: int) -> Path:
    """Files of the data set `name`, with `per_class` images of each class a split, below `root`."""
    {
        "fashion_mnist": _fashion_mnist,
        "cifar10": _cifar10,
        "cifar100": _cifar100,
        "tiny_imagenet": _tiny_imagenet,
        "image_folder": _image_folder,
    }[name](root, per_class)
    return root


def _pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def _fashion_mnist(root: Path, per_class: int) -> None:
    count = 10 * per_class
    for split in ("train", "t10k"):
        images = struct.pack(">4I", 0x803, count, 28, 28) + _pixels(count, 28, 28).tobytes()
        labels = struct.pack(">2I", 0x801, count) + bytes(i % 10 for i in range(count))
        (root / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (root / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def _cifar10(root: Path, per_class: int) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    _pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        count = 10 * per_class
        batch = {"data": _pixels(count, 3072), "labels": [i % 10 for i in range(count)]}
        _pickle(folder / name, batch)


def _cifar100(root: Path, per_class: int) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    _pickle(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    for name in ("train", "test"):
        count = 100 * per_class
        batch = {"data": _pixels(count, 3072), "fine_labels": [i % 100 for i in range(count)]}
        _pickle(folder / name, batch)


def _pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def _tiny_imagenet(root: Path, per_class: int) -> None:
    ids = [f"n{i:08d}" for i in range(200)]
    (root / "wnids.txt").write_text("\n".join(ids))
    (root / "words.txt").write_text("\n".join(f"{i}\tclass {i}" for i in ids))
    rows = []
    for label, name in enumerate(ids):
        for i in range(per_class):
            _image(root / "train" / name / "images" / f"{name}_{i}.JPEG", 64, i + label)
            _image(root / "val" / "images" / f"val_{label}_{i}.JPEG", 64, i + label)
            rows.append(f"val_{label}_{i}.JPEG\t{name}\t0\t0\t63\t63")
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows))


def _image_folder(root: Path, per_class: int) -> None:
    for split in ("train", "test"):
        for label in range(10):
            for i in range(per_class):
                _image(root / split / f"class {label}" / f"{i}.png", 40, i + label)


def _image(path: Path, size: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)

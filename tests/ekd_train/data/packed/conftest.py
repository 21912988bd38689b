"""Folders of small photographs, and a cache of their own for their packs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ekd_train.data.packed.records import records_in

EACH = 9
"""Training photographs of a class."""


def written(path: Path, seed: int, size: tuple[int, int] = (24, 18)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.fixture
def write_photograph():
    """Writes a photograph to a path, by its seed and size."""
    return written


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records_in.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Two classes of nine photographs of 24x18 pixels in train/, three each in test/."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(EACH):
            written(tmp_path / "images/train" / name / f"{number}.jpg", 100 * label + number)
        for number in range(3):
            written(tmp_path / "images/test" / name / f"{number}.jpg", 1000 + 100 * label + number)
    return tmp_path / "images"

"""Scikit-learn's handwritten digits: 1,797 real 8x8 images, installed with the package."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ekd_train.settings import DataSettings

from .dataset import Source, checked_split
from .errors import DataError


def load_digits(settings: DataSettings) -> Source:
    """The 1,797 digits as one split; grey levels 0..16 become 0..255.

    Alpaydin and Kaynak (1998), as scikit-learn ships them. They have no official test split:
    `data.test_size` and `data.validation_size` are held out class-balanced.
    """
    with gzip.open(_file()) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    images, labels = rows[:, :-1], rows[:, -1]
    scaled = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    names = tuple(str(digit) for digit in range(10))
    return Source(
        train=checked_split(scaled, labels, len(names), "scikit-learn's digits"),
        test=None,
        class_names=names,
        official_order=False,
    )


def _file() -> Path:
    """The package's file, without importing the package, which takes more than a second."""
    found = find_spec("sklearn")
    path = Path((found and found.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(path, "scikit-learn's digits are not there", "install scikit-learn again")
    return path

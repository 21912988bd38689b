"""Scikit-learn's handwritten digits: 1,797 real 8x8 images, installed with the package."""

from __future__ import annotations

import numpy as np

from ekd_train.settings import DataSettings

from .dataset import Source, checked_split


def load_digits(settings: DataSettings) -> Source:
    """The 1,797 digits as one split; grey levels 0..16 become 0..255.

    Alpaydin and Kaynak (1998), as scikit-learn ships them. They have no official test split:
    `data.test_size` and `data.validation_size` are held out class-balanced.
    """
    from sklearn.datasets import load_digits as bundled  # a second of import that only this set needs

    images, labels = bundled(return_X_y=True)
    scaled = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    names = tuple(str(digit) for digit in range(10))
    return Source(
        train=checked_split(scaled, labels, len(names), "scikit-learn's digits"),
        test=None,
        class_names=names,
        official_order=False,
    )

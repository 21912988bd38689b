"""Packed images, decoded when they are asked for."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ekd_train.data.errors import DataError
from ekd_train.data.packed.index import INDEX
from ekd_train.data.packed.records import records_in
from ekd_train.data.pixels import Cut, pixels
from ekd_train.settings import DataSettings


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Some images of a packed folder; stands for the uint8 array `(n, c, size, size)` of them decoded.

    A small value: it travels between processes, and each opens the shards for itself.
    """

    folder: Path
    rows: np.ndarray
    """int64 `(n,)`: which of the folder's images, in order."""
    grey: bool
    settings: DataSettings
    """How they are decoded; `image_size` is not None."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, c, h, w)`."""
        size = self.settings.image_size
        assert size is not None
        return len(self.rows), 1 if self.grey else 3, size, size

    def take(self, indices: np.ndarray | slice) -> "PackedImages":
        """The images at `indices`, not decoded."""
        return replace(self, rows=self.rows[indices])

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """The images at `indices`, decoded: uint8 `(m, c, h, w)`. Raises `DataError`, naming the file."""
        return self.decoded(self.rows[indices])

    def decoded(self, rows: np.ndarray, cuts: Sequence[Cut] | None = None) -> np.ndarray:
        """Those images of the folder, whether or not they are among these.

        `cuts`: what is shown of each; None: what `settings.resize` says.
        """
        records = records_in(self.folder)
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told when they were packed, with their names
            for place, row in enumerate(rows.tolist()):
                cut = None if cuts is None else cuts[place]
                try:
                    images[place] = pixels(records.image(row), self.grey, self.settings, cut)
                except DataError as error:
                    raise records.named(row, error) from None
        return images

    def digests(self) -> np.ndarray:
        """uint8 `(n, 16)`: of each image's encoded bytes."""
        return records_in(self.folder).index.digests[self.rows]

    def identity(self) -> bytes:
        """A hash of everything that decides the pixels but the decoder's version."""
        settings = self.settings
        framing = f"{self.shape} {settings.resize} {settings.background}"
        framing += f" {settings.centre_share}" if settings.centre_share < 1 else ""
        made = (self.folder / INDEX).exists()
        # What is not packed yet has no digests; nobody keeps a fingerprint of it.
        which = self.digests() if made else self.rows
        return hashlib.sha256(framing.encode() + which.tobytes()).digest()

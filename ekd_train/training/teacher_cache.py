"""Teachers' logits on every image that augmentation can make, computed once and kept in a file.

Worth it where images are not perturbed and augmentation makes few variants of an image: a step then
evaluates the student alone. Processes of one machine share the file's pages, and later runs over the
same data and teachers find it.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ekd_train.data.augment import AugmentationDraw, augment, variant, variant_indices
from ekd_train.data.user_cache import locked
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.identity import identity_of
from ekd_train.settings import Augmentation

BATCH = 500
"""Images evaluated at a time: always the same, because batch size decides rounding."""


@dataclass(frozen=True)
class TeacherCache:
    """Logits `(n, variants, k, c)` float32 on n training images, mapped from a file."""

    logits: Tensor

    def lookup(self, images: Tensor, draw: AugmentationDraw) -> Tensor:
        """Logits `(k, b, c)`, on the CPU, of the training images at `images (b,)`, augmented as drawn."""
        return self.logits[images.cpu(), variant_indices(draw).cpu()].transpose(0, 1).contiguous()


def open_cache(folder: Path, teachers: Teachers, images: Tensor, augmentation: Augmentation) -> TeacherCache:
    """The cache of these teachers and images `(n, channel, h, w)` uint8, made if it is not there yet.

    Its name is a hash of the teachers' weights and structure, the images and the augmentation. Of
    several processes of a machine one makes it and the others wait.
    """
    path = folder / f"{_key(teachers, images, augmentation)}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            _make(path, teachers, images, augmentation)
    # Copy on write: nothing is written, but torch has no read-only tensors.
    return TeacherCache(torch.from_numpy(np.load(path, mmap_mode="c")))


@torch.no_grad()
def _make(path: Path, teachers: Teachers, images: Tensor, augmentation: Augmentation) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.unlink(missing_ok=True)  # of a killed process, or a link that somebody put there
    table: np.memmap | None = None
    for number in range(augmentation.variants):
        for start in range(0, len(images), BATCH):
            rows = images[start : start + BATCH]
            logits = teachers(augment(rows, variant(number, len(rows), augmentation)))
            if table is None:
                shape = (len(images), augmentation.variants, logits.shape[0], logits.shape[2])
                table = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape)
            table[start : start + BATCH, number] = logits.transpose(0, 1).cpu().numpy()
    assert table is not None
    table.flush()
    os.replace(unfinished, path)


def _key(teachers: Teachers, images: Tensor, augmentation: Augmentation) -> str:
    digest = hashlib.sha256(identity_of(augmentation, repr(teachers), images.shape).encode())
    for tensor in (images, *teachers.state_dict().values(), *teachers.buffers()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

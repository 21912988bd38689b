"""Mixup and CutMix, each image with another of the global batch, and labels that are not one class."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ekd_train.data.transfer import to_device
from ekd_train.settings import Augmentation


@dataclass(frozen=True, eq=False)
class Mixing:
    """The choices for b images of a row of them.

    `own`, `other`: int64 `(b,)`, where an image and its partner lie in the row. `kept`: `(b,)` in [0, 1], how
    much of the image stays. `cut`: bool `(b,)`, whether a rectangle is replaced instead of all pixels mixed.
    `centre`: `(b, 2)` in [0, 1), the rectangle's, from the upper left corner.
    """

    own: Tensor
    other: Tensor
    kept: Tensor
    cut: Tensor
    centre: Tensor

    def rows(self, start: int, stop: int) -> tuple[Tensor, "Mixing"]:
        """The rows `(n,)` that images `[start, stop)` are made of, in order, and the choices among these."""
        own, other = self.own[start:stop], self.other[start:stop]
        needed = torch.cat([own, other]).unique()
        where = (torch.searchsorted(needed, own), torch.searchsorted(needed, other))
        return needed, Mixing(*where, self.kept[start:stop], self.cut[start:stop], self.centre[start:stop])


def draw_mixing(generator: torch.Generator, batch: int, settings: Augmentation) -> Mixing:
    """Partners, shares and rectangles for `batch` images; every image is the partner of one."""
    numbers = torch.rand(batch, 3, generator=generator)
    other = torch.randperm(batch, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    # torch draws no Beta from a generator of one's own.
    beta = np.random.default_rng(seed)
    shares = {
        name: torch.from_numpy(beta.beta(alpha or 1, alpha or 1, batch)).float()
        for name, alpha in (("mixup", settings.mixup), ("cutmix", settings.cutmix))
    }
    odds = (settings.cutmix > 0) * (0.5 if settings.mixup > 0 else 1.0)
    cut = numbers[:, 0] < odds
    kept = torch.where(cut, shares["cutmix"], shares["mixup"])
    return Mixing(torch.arange(batch), other, kept, cut, numbers[:, 1:])


def mix(images: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """The mixed images `(b, c, h, w)` of a row of images, and `(b,)` how much of each is its own.

    Mixup: `λ x_i + (1 - λ) x_j` (Zhang et al. 2018). CutMix: a rectangle of √(1 - λ) of height and width,
    cut off at the edges, from x_j; what is left counts (Yun et al. 2019).
    """
    height, width = images.shape[-2:]
    half = (1 - mixing.kept).sqrt() / 2
    bounds = []
    for axis, size in enumerate((height, width)):
        middle = (mixing.centre[:, axis] * size).floor()
        low, high = (
            (middle - (half * size).floor()).clamp(min=0),
            (middle + (half * size).floor()).clamp(max=size),
        )
        line = torch.arange(size)
        bounds.append((line >= low[:, None]) & (line < high[:, None]))
    pasted = bounds[0][:, :, None] & bounds[1][:, None, :]
    kept = torch.where(mixing.cut, 1 - pasted.float().mean(dim=(1, 2)), mixing.kept)
    weight = torch.where(mixing.cut[:, None, None], 1 - pasted.float(), mixing.kept[:, None, None])
    weight = to_device(weight[:, None], images.device)
    first, second = (images[to_device(rows, images.device)] for rows in (mixing.own, mixing.other))
    return weight * first + (1 - weight) * second, to_device(kept, images.device)


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """`(b, c)` probabilities of `labels (b,)`: 1 - ε at the label, and ε spread evenly over all classes."""
    probs = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return probs.scatter_add_(1, labels[:, None], torch.full_like(probs[:, :1], 1 - smoothing))

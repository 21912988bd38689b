"""What a corruption is."""

from typing import Protocol

import torch
from torch import Tensor

TABLE_SIDE = 32
"""Pixels of the images that the severity tables were published for (CIFAR-10-C)."""


class Corruption(Protocol):
    """Images `(b, c, h, w)` in [0, 1], c of 1 or 3, made worse; values outside [0, 1] are cut afterwards.

    Every random value comes from `generator`, a CPU generator, so that images on any device see the
    same ones; every image of the batch sees its own.
    """

    def __call__(self, images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        """The images at `severity` 1 to 5."""


def pixel(images: Tensor) -> float:
    """How many pixels of `images` stand for one pixel of the published tables.

    The published tables for 32 and for 224 pixels agree in that a length is a fraction of the image's
    side. Not less than a half: below that a blur would be narrower than a pixel and change nothing.
    """
    return max(min(images.shape[-2:]) / TABLE_SIDE, 0.5)


def tap(images: Tensor) -> float:
    """Pixels between the points of a blur: the published ones are a pixel of 32 apart.

    32 pixels get the published weights. In smaller images they move closer together with the image, and in
    larger ones they stay a pixel apart. Between pixels it is bilinear, which blurs a little more: see
    `docs/evaluation.md`.
    """
    return min(1.0, pixel(images))

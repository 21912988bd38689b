"""Blur of a lens, of frosted glass, and of movement."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ekd_train.robustness.corruptions.corruption import pixel, tap
from ekd_train.robustness.corruptions.optics import drag, smooth, uniform, zoom

ZOOMS = (7, 12, 16, 21, 26)
"""How many steps of 1 % the published ranges have at each severity: rounding gives the first two one more."""


def defocus_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Every point becomes a disk: radius of 0.3 to 1.5 pixels, softened by its two neighbours a side.

    Of 32 pixels the disks of severities 1 to 3 are a point, and the softening is all the blur there is.
    """
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    return smooth(_disk(images, radius * pixel(images)), soft * pixel(images), tap(images), reach=1)


def glass_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Swaps every pixel with a neighbour, once or twice, between two Gaussian blurs of 0.05 to 0.4 pixels."""
    sigma, reach, times = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    one = pixel(images)
    blurred = smooth(images, sigma * one, tap(images))
    batch, channels, height, width = images.shape
    order = _swapped(batch, height, width, max(1, round(reach * one)), times, generator).to(images.device)
    pixels = blurred.flatten(2).gather(2, order[:, None].expand(-1, channels, -1))
    return smooth(pixels.view_as(images), sigma * one, tap(images))


def motion_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Moves at up to 45 degrees from the horizontal, a Gaussian of 1 to 2.5 pixels."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    degrees = uniform(-45, 45, (len(images),), images, generator)
    return drag(images, radius * pixel(images), sigma * pixel(images), degrees, tap(images))


def zoom_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean over zooms of 1, 1.01, ... up to 1.06 (severity 1) to 1.25, and the image itself."""
    steps = ZOOMS[severity - 1]
    total = images + sum(zoom(images, 1 + step / 100) for step in range(steps))
    return total / (steps + 1)


def _disk(images: Tensor, radius: float) -> Tensor:
    """The mean of the image shifted to every point of a disk, `tap` apart, bilinear between pixels."""
    apart = tap(images)
    reach = math.floor(radius / apart)
    points = torch.arange(-reach, reach + 1) * apart
    half = math.ceil(reach * apart)
    inside = (points[:, None] ** 2 + points**2 <= radius**2).float()
    shares = (1 - (points[:, None] - torch.arange(-half, half + 1)).abs()).clamp(min=0)
    kernel = (shares.T @ inside @ shares).to(images)
    channels = images.shape[1]
    padded = F.pad(images, [half] * 4, mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum()).expand(channels, 1, -1, -1), groups=channels)


def _swapped(batch: int, height: int, width: int, reach: int, times: int, draw: torch.Generator) -> Tensor:
    """Which pixel comes to which place, `(batch, height * width)`: a permutation of its own for each image.

    One place after the other, as published: a pixel may travel far in the end.
    """
    order = torch.arange(height * width).repeat(batch, 1)
    every = torch.arange(batch)
    for _ in range(times):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                across, down = torch.randint(-reach, reach, (2, batch), generator=draw)
                place, other = row * width + column, (row + down) * width + column + across
                here, there = order[:, place].clone(), order[every, other]
                order[:, place] = there
                order[every, other] = here
    return order

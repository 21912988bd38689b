"""Snow, fog and bright light. Published frost is made of photographs of frost, which are not here."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ekd_train.robustness.corruptions.corruption import pixel, tap
from ekd_train.robustness.corruptions.optics import drag, luminance, uniform, zoom


def snow(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Flakes of noise, magnified, cut below a threshold and blown; and the scene a little whiter."""
    mean, spread, size, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    batch, _, height, width = images.shape
    layer = mean + spread * torch.randn((batch, 1, height, width), generator=generator).to(images.device)
    layer = zoom(layer, size)
    flakes = layer.masked_fill(layer < threshold, 0).clamp(0, 1)
    degrees = uniform(-135, -45, (batch,), images, generator)
    flakes = drag(flakes, radius * pixel(images), sigma * pixel(images), degrees, tap(images))
    whiter = torch.maximum(images, luminance(images) * 1.5 + 0.5)
    return kept * images + (1 - kept) * whiter + flakes + flakes.flip(2, 3)


def fog(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Adds clouds, then scales back to the image's own maximum: contrast is lost."""
    thickness, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    clouds = _clouds(images, decay, generator)
    return (images + thickness * clouds) * brightest / (brightest + thickness)


def brightness(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Adds 0.05 to 0.3 to the value of hue, saturation, value: colours keep hue and saturation."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-6), brighter)


def _clouds(images: Tensor, decay: float, generator: torch.Generator) -> Tensor:
    """Fractal noise `(b, 1, h, w)` from 0 to 1: octaves, each `decay` times weaker and twice as fine.

    The published diamond-square fractal has the same octaves.
    """
    batch, _, height, width = images.shape
    total = torch.zeros(batch, 1, height, width)
    for octave in range(1, math.ceil(math.log2(max(height, width, 2))) + 1):
        points = 2 * torch.rand((batch, 1, 2**octave + 1, 2**octave + 1), generator=generator) - 1
        wave = F.interpolate(points, (height, width), mode="bilinear", align_corners=True)
        total += wave / decay ** (octave - 1)
    low, high = total.amin(dim=(2, 3), keepdim=True), total.amax(dim=(2, 3), keepdim=True)
    return ((total - low) / (high - low).clamp(min=1e-6)).to(images.device)

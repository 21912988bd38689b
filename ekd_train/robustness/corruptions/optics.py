"""Smoothing, moving and zooming of whole batches, which several corruptions are made of."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def smooth(images: Tensor, sigma: float, tap: float = 1.0, reach: int | None = None) -> Tensor:
    """Gaussian blur of standard deviation `sigma` pixels; `(..., h, w)`, mirrored at the edges.

    Its weights are the density at points `tap` <= 1 pixels apart, `reach` of them to each side (default: 4
    sigma).
    """
    if sigma == 0:
        return images
    height, width = images.shape[-2:]
    reach = reach or math.ceil(4 * sigma / tap)
    points = tap * torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-((points / sigma) ** 2) / 2)
    down, across = (_smoothing(size, points, weights / weights.sum(), images) for size in (height, width))
    return down @ images @ across.T


def move(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Each pixel of `(b, c, h, w)` from `across`, `down` pixels away, bilinear, mirrored at the edges.

    The shifts broadcast to `(b, h, w)`.
    """
    batch, _, height, width = images.shape
    rows = torch.arange(height, device=images.device)[:, None] + down
    columns = torch.arange(width, device=images.device) + across
    shape = (batch, height, width)
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels.
    grid = torch.stack(
        [(2 * columns + 1).expand(shape) / width - 1, (2 * rows + 1).expand(shape) / height - 1], dim=-1
    )
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def zoom(images: Tensor, factor: float) -> Tensor:
    """The middle of `(b, c, h, w)`, magnified by `factor` >= 1 to the same size."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - (height - 1) / 2
    columns = torch.arange(width, device=images.device) - (width - 1) / 2
    inward = 1 / factor - 1
    return move(images, (inward * columns)[None, None], (inward * rows)[None, :, None])


def drag(images: Tensor, radius: float, sigma: float, degrees: Tensor, tap: float = 1.0) -> Tensor:
    """Motion blur of `(b, c, h, w)`: a one-sided Gaussian along a line at `degrees` `(b,)`.

    Over `2 * radius` pixels in steps of `tap` weighted `exp(-t² / 2 sigma²)`, as ImageMagick does in steps
    of a pixel; steps that weigh nothing (beyond 4 sigma) are left out.
    """
    reach = min(2 * radius, 4 * sigma)
    angle = torch.deg2rad(degrees)[:, None, None]
    total, weights = torch.zeros_like(images), 0.0
    for step in range(math.floor(reach / tap) + 1):
        distance = step * tap
        weight = math.exp(-(distance**2) / (2 * sigma**2))
        total += weight * move(images, distance * angle.cos(), distance * angle.sin())
        weights += weight
    return total / weights


def luminance(images: Tensor) -> Tensor:
    """Grey `(b, 1, h, w)` of images with 1 or 3 channels (ITU-R BT.601)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def uniform(low: float, high: float, shape: tuple[int, ...], like: Tensor, draw: torch.Generator) -> Tensor:
    """Uniform values on the device of `like`."""
    return (low + (high - low) * torch.rand(shape, generator=draw)).to(like.device)


def _smoothing(size: int, points: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """`(size, size)`: what each pixel (column) adds to each blurred pixel (row), bilinear between pixels."""
    below = points.floor()
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offsets, share in ((below, 1 - (points - below)), (below + 1, points - below)):
        places = (torch.arange(size)[:, None] + offsets.long()) % (2 * size)
        mirrored = torch.where(places < size, places, 2 * size - 1 - places)
        matrix.scatter_add_(1, mirrored, (weights * share).expand(size, -1).contiguous())
    return matrix.to(like.device, like.dtype)

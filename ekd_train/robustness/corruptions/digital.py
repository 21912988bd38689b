"""What happens to an image after it was taken: contrast, warping, few pixels, compression."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ekd_train.robustness.corruptions.corruption import tap
from ekd_train.robustness.corruptions.optics import move, smooth, uniform


def contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Shrinks every channel's distance to its mean over the image, to 75 down to 15 %."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + kept * (images - mean)


def elastic(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Moves pixels by a random affine map and by smooth noise; lengths as fractions of the side."""
    strength, sigma, corners = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    batch, _, height, width = images.shape
    side = min(height, width)
    affine = _affine(corners * side, images, generator)
    noise = uniform(-1, 1, (2, batch, height, width), images, generator)
    across, down = affine + strength * side * smooth(noise, sigma * side, tap(images))
    return move(images, across, down)


def pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Down to 95, 90, 85, 75 or 65 % of the side (rounded down), and up again in blocks, as Pillow does."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = images.shape[-2:]
    small = _box(height, share, images) @ images @ _box(width, share, images).T
    return F.interpolate(small, (height, width), mode="nearest-exact")


def jpeg(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """JPEG at quality 80 down to 40, there and back by Pillow's libjpeg."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    grey_levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(pixels, quality) for pixels in grey_levels])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Uint8 `(h, w, c)`."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def _box(size: int, share: float, like: Tensor) -> Tensor:
    """`(int(size * share), size)`: Pillow's BOX filter, a mean of the pixels centred in a block."""
    fewer = max(1, int(size * share))
    centres = (torch.arange(fewer)[:, None] + 0.5) * size / fewer
    distance = (torch.arange(size) + 0.5 - centres) * fewer / size
    inside = ((distance > -0.5) & (distance <= 0.5)).to(like)
    return inside / inside.sum(1, keepdim=True)


def _affine(reach: float, images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts `(2, b, h, w)` across and down of the affine map that moves three corners of a square by up to
    `reach` pixels each way. The square is two thirds of the image wide."""
    batch, _, height, width = images.shape
    lower_right, upper_right, upper_left = uniform(-reach, reach, (3, 2, batch, 1, 1), images, generator)
    third = min(height, width) / 3
    down = torch.arange(height, device=images.device)[:, None] - height / 2 + third
    across = torch.arange(width, device=images.device) - width / 2 - third
    by_row = (lower_right - upper_right) / (2 * third)
    by_column = (upper_right - upper_left) / (2 * third)
    return upper_right + by_row * down + by_column * across

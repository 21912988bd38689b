"""Rectangles of an image by numbers that were drawn: which part a crop shows, or what is erased."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 10
"""At a rectangle that lies within the image, before there is none; as torchvision."""
CROP_RATIO = (3 / 4, 4 / 3)
RECTANGLE = 2 * ATTEMPTS + 2
"""How many numbers a rectangle takes."""
CROP = slice(0, RECTANGLE)
"""Those of an image's numbers (`ekd_train.data.recipe`) that decide its crop."""


def rectangles(
    numbers: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """`(b, 4)` int64 top, left, height, width; and `(b,)`, whether any attempt lay within the image.

    As torchvision's `RandomResizedCrop.get_params`: a share of the area in `scale`, a logarithm of
    width / height in `log(ratio)`, the first of `ATTEMPTS` that fits, at any place. `numbers (b, 22)`.
    """
    numbers = numbers.double()  # roots and products are then the same on every processor
    areas, ratios = numbers[:, :ATTEMPTS], numbers[:, ATTEMPTS : 2 * ATTEMPTS]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * areas)
    low, high = (math.log(value) for value in ratio)
    aspect = torch.exp(low + (high - low) * ratios)
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    h, w = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top = (numbers[:, -2] * (height - h + 1)).floor()
    left = (numbers[:, -1] * (width - w + 1)).floor()
    return torch.stack([top, left, h, w], dim=1).long(), fits.any(dim=1)


def crop_boxes(numbers: Tensor, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """`(b, 4)` int64 top, left, height, width of resized crops; the largest middle where no attempt fits.

    `numbers (b, RECTANGLE)`; the images may have any size.
    """
    boxes, found = rectangles(numbers, height, width, scale, CROP_RATIO)
    h, w = height, width
    if width / height < CROP_RATIO[0]:
        h = round(width / CROP_RATIO[0])
    elif width / height > CROP_RATIO[1]:
        w = round(height * CROP_RATIO[1])
    middle = boxes.new_tensor([(height - h) // 2, (width - w) // 2, h, w])
    return torch.where(found[:, None], boxes, middle)


def crop_box(
    numbers: Sequence[float], scale: tuple[float, float], height: int, width: int
) -> tuple[int, int, int, int]:
    """Top, left, height and width of one crop, as `crop_boxes` has it; `numbers`: `RECTANGLE` of them."""
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    for share, ratio in zip(numbers[:ATTEMPTS], numbers[ATTEMPTS : 2 * ATTEMPTS], strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(low + (high - low) * ratio)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= h <= height and 1 <= w <= width:
            return int(numbers[-2] * (height - h + 1)), int(numbers[-1] * (width - w + 1)), h, w
    top, left, h, w = crop_boxes(torch.tensor([numbers]), height, width, scale)[0].tolist()  # the middle
    return top, left, h, w


def cut_out(
    numbers: Sequence[float], scale: tuple[float, float], size: int, photograph: np.ndarray
) -> np.ndarray:
    """The crop of a uint8 photograph `(h, w)` or `(h, w, 3)`, brought to `(c, size, size)`.

    Bilinear and smoothed where it becomes smaller, as torchvision's `RandomResizedCrop` of a tensor; twice as
    fast as Pillow's, from which it differs by one grey level here and there.
    """
    top, left, h, w = crop_box(numbers, scale, *photograph.shape[:2])
    image = torch.from_numpy(photograph)
    image = image[None] if image.dim() == 2 else image.permute(2, 0, 1)
    part = image[None, :, top : top + h, left : left + w]
    resized = F.interpolate(part, (size, size), mode="bilinear", align_corners=False, antialias=True)
    made: np.ndarray = resized[0].numpy()
    return made

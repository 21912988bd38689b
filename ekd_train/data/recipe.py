"""Resized crops, colours, shapes, erased rectangles: of a whole batch, each image by its own numbers.

What an operation does to pixels is torchvision's (`transforms.v2.functional`); what differs from image to
image is blended, thresholded or sampled here, because there an operation has one strength for a batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from ekd_train.data.boxes import CROP, RECTANGLE, rectangles
from ekd_train.data.transfer import to_device
from ekd_train.settings import Augmentation

ERASED_SCALE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
MOST_OPERATIONS = 4

JITTER = slice(CROP.stop, CROP.stop + 4)
OPERATIONS = slice(JITTER.stop, JITTER.stop + 3 * MOST_OPERATIONS)
ERASING = slice(OPERATIONS.stop, OPERATIONS.stop + 1 + RECTANGLE)
"""Which of an image's numbers decide what: its own for each, so that one more choice changes no other."""
NUMBERS = ERASING.stop

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OTHERS = ("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
NAMES = ("identity", *GEOMETRIC, *OTHERS)
"""The operations of RandAugment and TrivialAugment, each as probable as another."""
BINS = 31
"""Magnitudes that TrivialAugment chooses from; of RandAugment, 0 to 30."""


@dataclass(frozen=True)
class Ranges:
    """The largest magnitudes of a family of operations."""

    shear: float
    """Tangent."""
    translate: float
    """Pixels; below 1, a share of the image's width."""
    rotate: float
    """Degrees."""
    factor: float
    """Of brightness, colour, contrast and sharpness: away from 1."""
    bits: int
    """That `posterize` takes of 8."""


RAND_AUGMENT = Ranges(shear=0.3, translate=150 / 331, rotate=30, factor=0.9, bits=4)
TRIVIAL_AUGMENT = Ranges(shear=0.99, translate=32, rotate=135, factor=0.99, bits=6)
"""As in torchvision's `RandAugment` and `TrivialAugmentWide`."""


def draw_numbers(generator: torch.Generator, batch: int) -> Tensor:
    """Uniform in [0, 1): `(b, NUMBERS)` float32, all that is drawn for a recipe."""
    return torch.rand(batch, NUMBERS, generator=generator, device=generator.device)


def vary(images: Tensor, numbers: Tensor, settings: Augmentation) -> Tensor:
    """Float images `(b, c, h, w)` in [0, 1], with other colours, shapes and rectangles.

    `numbers (b, NUMBERS)` on the CPU.
    """
    images = jitter(images, numbers, settings)
    if settings.trivial_augment:
        images = operate(images, *_chosen(numbers, 0, None), TRIVIAL_AUGMENT)
    for index in range(settings.rand_augment.operations):
        images = operate(images, *_chosen(numbers, index, settings.rand_augment.magnitude), RAND_AUGMENT)
    if settings.random_erasing > 0:
        images = erase(images, numbers, settings.random_erasing)
    return images


def resized_crop(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Cut `boxes (b, 4)` out of float images `(b, c, h, w)`, bring them to `h x w` (bilinear), mirror some.

    Nothing is made smaller, so that nothing need be smoothed. As torchvision's `resized_crop` of each alone.
    """
    height, width = images.shape[-2:]
    top, left, h, w = boxes.double().T[:, :, None]
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    across = torch.where(flipped[:, None], columns.flip(0), columns)
    y = top + (rows * h / height - 0.5).clamp(min=0).minimum(h - 1)
    x = left + (across * w / width - 0.5).clamp(min=0).minimum(w - 1)
    return _sample(images, y[:, :, None], x[:, None, :], "bilinear")


def jitter(images: Tensor, numbers: Tensor, settings: Augmentation) -> Tensor:
    """Brightness, contrast, saturation, then hue."""
    chosen = settings.color_jitter
    away = 2 * numbers[:, JITTER] - 1
    strengths = (chosen.brightness, chosen.contrast, chosen.saturation)
    for column, (name, strength) in enumerate(
        zip(("brightness", "contrast", "color"), strengths, strict=True)
    ):
        if strength > 0:
            images = _blended(images, name, 1 + strength * away[:, column])
    if chosen.hue > 0 and images.shape[1] == 3:
        images = _turned_hue(images, chosen.hue * away[:, 3])
    return images


def operate(images: Tensor, chosen: Tensor, level: Tensor, sign: Tensor, ranges: Ranges) -> Tensor:
    """Each image after the operation `NAMES[chosen]` at `level` in [0, 1]; all `(b,)`, on the CPU."""
    geometric = (chosen >= 1) & (chosen <= len(GEOMETRIC))
    images, amount = images.clone(), level * sign
    if len(rows := geometric.nonzero()[:, 0]):
        there = to_device(rows, images.device)
        images[there] = _moved(images[there], chosen[rows], amount[rows], ranges)
    for number in chosen[~geometric & (chosen > 0)].unique().tolist():
        rows = (chosen == number).nonzero()[:, 0]
        there, name = to_device(rows, images.device), NAMES[number]
        operation = _OPERATIONS.get(name, _blend)
        images[there] = operation(images[there], name, level[rows], amount[rows], ranges)
    return images


def erase(images: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Images with black rectangles, those that are to have one."""
    height, width = images.shape[-2:]
    own = numbers[:, ERASING]
    boxes, found = rectangles(own[:, 1:], height, width, ERASED_SCALE, ERASED_RATIO)
    erased = found & (own[:, 0] < probability)
    within = inside(boxes, height, width) & erased[:, None, None]
    return images.masked_fill(to_device(within[:, None], images.device), 0.0)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """`(b, h, w)`: whether a pixel lies in its image's rectangle of `boxes (b, 4)`."""
    top, left, h, w = boxes.T[:, :, None]
    rows, columns = torch.arange(height), torch.arange(width)
    vertical, horizontal = (rows >= top) & (rows < top + h), (columns >= left) & (columns < left + w)
    return vertical[:, :, None] & horizontal[:, None, :]


def _chosen(numbers: Tensor, index: int, magnitude: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Operation, level and sign of the `index`-th operation on each image; a random magnitude for None."""
    operation, sign, level = numbers[:, OPERATIONS].unflatten(1, (MOST_OPERATIONS, 3))[:, index].T
    levels = (level * BINS).floor() if magnitude is None else torch.full_like(level, magnitude)
    return (operation * len(NAMES)).long(), levels / (BINS - 1), torch.where(sign < 0.5, 1.0, -1.0)


def _moved(images: Tensor, chosen: Tensor, amount: Tensor, ranges: Ranges) -> Tensor:
    """Sheared from the upper left, shifted, or turned about the middle: nearest pixels, black beyond."""
    height, width = images.shape[-2:]
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    y, x = y[None, :, None], x[None, None, :]
    amounts = {
        name: torch.where(chosen == NAMES.index(name), amount.double(), 0.0)[:, None, None]
        for name in GEOMETRIC
    }
    furthest = ranges.translate if ranges.translate >= 1 else ranges.translate * width
    highest = ranges.translate if ranges.translate >= 1 else ranges.translate * height
    angle = -torch.deg2rad(amounts["rotate"] * ranges.rotate)
    from_middle_y, from_middle_x = y - height / 2, x - width / 2
    across = angle.cos() * from_middle_x + angle.sin() * from_middle_y + width / 2
    down = -angle.sin() * from_middle_x + angle.cos() * from_middle_y + height / 2
    across = across + amounts["shear_x"] * ranges.shear * y - (amounts["translate_x"] * furthest).trunc()
    down = down + amounts["shear_y"] * ranges.shear * x - (amounts["translate_y"] * highest).trunc()
    return _sample(images, down - 0.5, across - 0.5, "nearest")


def _sample(images: Tensor, y: Tensor, x: Tensor, mode: str) -> Tensor:
    """Pixels at `y` and `x`, which broadcast to `(b, h, w)`; 0 beyond the edge."""
    height, width = images.shape[-2:]
    size = (len(images), height, width)
    grid = torch.stack(
        [((2 * x + 1) / width - 1).expand(size), ((2 * y + 1) / height - 1).expand(size)], dim=-1
    )
    return F.grid_sample(images, to_device(grid.float(), images.device), mode=mode, align_corners=False)


def _blended(images: Tensor, name: str, factors: Tensor) -> Tensor:
    """`f · image + (1 - f) · its extreme`, the extreme being torchvision's at strength 0."""
    extremes = {
        "brightness": vision.adjust_brightness,
        "contrast": vision.adjust_contrast,
        "color": vision.adjust_saturation,
        "sharpness": unsharpened,
    }
    factor = to_device(factors, images.device)[:, None, None, None]
    return (factor * images + (1 - factor) * extremes[name](images, 0.0)).clamp_(0, 1)


def unsharpened(images: Tensor, _: float) -> Tensor:
    """The same bits as torchvision's `adjust_sharpness(images, 0)`, which copies a list to the device, and so
    waits for it."""
    channels = images.shape[1]
    kernel = images.new_full((channels, 1, 3, 3), 1 / 13)
    kernel[:, :, 1, 1] = 5 / 13
    result = images.clone()
    inner = result[..., 1:-1, 1:-1]
    if inner.numel():
        inner.add_(F.conv2d(images, kernel, groups=channels).sub_(inner))
    return result.clamp_(0, 1)


def _blend(images: Tensor, name: str, level: Tensor, amount: Tensor, ranges: Ranges) -> Tensor:
    return _blended(images, name, 1 + ranges.factor * amount)


def _posterized(images: Tensor, name: str, level: Tensor, amount: Tensor, ranges: Ranges) -> Tensor:
    """Grey levels without their lowest bits."""
    levels = to_device(2.0 ** (8 - level * ranges.bits).round(), images.device)[:, None, None, None]
    return (images * levels).floor().minimum(levels - 1) / levels


def _solarized(images: Tensor, name: str, level: Tensor, amount: Tensor, ranges: Ranges) -> Tensor:
    """Inverted from a threshold on, 1 at level 0 and 0 at level 1."""
    threshold = to_device(1 - level, images.device)[:, None, None, None]
    return torch.where(images >= threshold, 1 - images, images)


_OPERATIONS = {
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": lambda images, *_: vision.autocontrast(images),
    "equalize": lambda images, *_: vision.equalize(images),
}


def _turned_hue(images: Tensor, turns: Tensor) -> Tensor:
    """The hue of each image turned by its own share of the circle; saturation and value stay.

    In HSV each channel is `v - v s max(0, min(k, 4 - k, 1))`, `k = (n + 6 h) mod 6`, n = 5, 3, 1.
    """
    value, darkest = images.amax(dim=1), images.amin(dim=1)
    spread = value - darkest
    divisor = torch.where(spread == 0, 1, spread)
    r, g, b = images.unbind(dim=1)
    sixth = torch.where(
        value == r, (g - b) / divisor, torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    )
    sixth = sixth + 6 * to_device(turns, images.device)[:, None, None]
    channels = []
    for n in (5, 3, 1):
        k = (n + sixth) % 6
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)

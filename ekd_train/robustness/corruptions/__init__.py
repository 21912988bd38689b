"""Common corruptions of images, at severities 1 to 5, for batches on any device.

Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations*, ICLR 2019. The severities are the published ones of CIFAR-10-C, written out in each
function; a length in pixels grows with the image (`corruption.pixel`). Rewritten for batches of tensors,
so the images are alike but not the published files'; frost is left out.
"""

import torch
from torch import Tensor

from ekd_train.data.augment import as_float
from ekd_train.data.seeds import derive_seed
from ekd_train.robustness.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from ekd_train.robustness.corruptions.corruption import Corruption
from ekd_train.robustness.corruptions.digital import contrast, elastic, jpeg, pixelate
from ekd_train.robustness.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from ekd_train.robustness.corruptions.weather import brightness, fog, snow
from ekd_train.robustness.settings import CorruptionName

__all__ = ["CORRUPTIONS", "corrupt"]

CORRUPTIONS: dict[CorruptionName, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic": elastic,
    "pixelate": pixelate,
    "jpeg": jpeg,
}

IMAGES_AT_ONCE = 500
"""Part of the definition: random values are drawn for so many images at a time."""


def corrupt(images: Tensor, kind: CorruptionName, severity: int, seed: int = 0, first: int = 0) -> Tensor:
    """The images, corrupted: uint8 of the same shape, on their device.

    The same arguments give the same result; other seeds, kinds and severities draw independent values.

    Args:
        images: uint8 `(n, c, h, w)`, c of 1 or 3.
        kind: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the random choices.
        first: number of the first image, a multiple of 500, where these are a part of a larger set: parts
            give what the whole would.

    Raises `ValueError`: another number of channels, or a severity that is not 1 to 5.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (n, c, h, w) with 1 or 3 channels, not {tuple(images.shape)}")
    if severity not in range(1, 6):
        raise ValueError(f"severity must be 1 to 5, not {severity}")
    parts = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        draw = torch.Generator().manual_seed(derive_seed("corruption", kind, severity, seed, first + start))
        clean = as_float(images[start : start + IMAGES_AT_ONCE])
        worse = CORRUPTIONS[kind](clean, severity, draw).clamp(0, 1)
        parts.append((worse * 255).round().to(torch.uint8))
    return torch.cat(parts)

"""What the residual networks for small images are made of: rules of depth and width, first weights, pooling.

A mean over height and width, and slicing with a step, hand back gradients that lie channel by channel,
whatever the map's layout was; a ReLU whose gradient lies otherwise than its output takes 30 times as long
on a CPU (8.9 instead of 0.26 ms for 128 maps of 16 x 28 x 28 in bfloat16; docs/log.md), and so does all
that adds to it. So both are average pooling here, whose gradients keep the layout.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def blocks_per_group(name: str, depth: int, extra_layers: int) -> int:
    """Blocks in each of three groups, from `depth = 6 n + extra_layers`.

    Raises `ValueError` that names the rule and the nearest valid depth.

    >>> blocks_per_group("wide_resnet", 28, extra_layers=4)
    4
    """
    blocks = max(1, round((depth - extra_layers) / 6))
    nearest = 6 * blocks + extra_layers
    if depth != nearest:
        raise ValueError(
            f"{name}: depth must be 6n+{extra_layers} with n >= 1, got {depth}; the nearest is {nearest}"
        )
    return blocks


def group_channels(stem_channels: int, width: float) -> tuple[int, int, int]:
    """Channels of the three groups: `stem_channels * width`, rounded, then doubled twice.

    >>> group_channels(16, 4)
    (64, 128, 256)
    """
    first = round(stem_channels * width)
    if first < 1:
        raise ValueError(f"width {width} leaves no channel of the {stem_channels} of the stem")
    return first, 2 * first, 4 * first


def block_group(
    block: Callable[[int, int, int], nn.Module], in_channels: int, out_channels: int, blocks: int, stride: int
) -> nn.Sequential:
    """`blocks` blocks in a row, of which the first changes channels and size."""
    others = (block(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, out_channels, stride), *others)


def he_normal_(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Redraws, in place, every Conv2d and Linear weight from N(0, 2 / fan_in) and zeroes biases.

    He et al. 2015, arXiv 1502.01852, equation 10. Without a generator the global one is used.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def global_average(x: Tensor) -> Tensor:
    """Maps `(b, channel, h, w)` to their means `(b, channel)`."""
    return F.avg_pool2d(x, x.shape[-2:]).squeeze((2, 3))


class GlobalAverage(nn.Module):
    """`global_average` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(b, channel, h, w)` to their means `(b, channel)`."""
        return global_average(x)


def every_nth_pixel(x: Tensor, n: int) -> Tensor:
    """`x[:, :, ::n, ::n]`: maps `(b, channel, h, w)` to `(b, channel, h / n, w / n)`, rounded up."""
    return F.avg_pool2d(x, kernel_size=1, stride=n)

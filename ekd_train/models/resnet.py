"""Residual networks for CIFAR-sized images (He et al. 2015, arXiv 1512.03385, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ekd_train.models.residual_parts import (
    block_group,
    blocks_per_group,
    every_nth_pixel,
    global_average,
    group_channels,
    he_normal_,
)


class PadShortcut(nn.Module):
    """The identity that drops every second pixel and adds channels of zeros ("option A").

    The paper's CIFAR networks use it: it has no parameters, so depth-d networks have the published
    sizes (ResNet-20: 0.27 M, ResNet-32: 0.46 M) and exactly as many layers as their name says.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(b, in, h, w)` to `(b, out, h / stride, w / stride)`, rounded up; the new channels are 0."""
        return F.pad(every_nth_pixel(x, self.stride), (0, 0, 0, 0, 0, self.new_channels))


class PostActivationBlock(nn.Module):
    """3x3 conv and BN, twice, with ReLU between and after the sum with the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = PadShortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps `(b, in, h, w)` to `(b, out, h / stride, w / stride)`, rounded up."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """ResNet-`depth`, post-activation, for images of about 8 to 64 pixels.

    A 3x3 stem with BN and ReLU, three groups of `(depth - 2) / 6` blocks with
    `stem_channels * width * (1, 2, 4)` channels, the second and third group at half the size of
    the one before, then global average pooling and a linear head. Weights start He-normal
    (fan-in), the bias at 0. Unlike `WideResNet`, `width` widens the stem too: the pad shortcut can
    add channels only where the size halves, as in the paper.

    Raises `ValueError` when `depth` is not 6n + 2 with n >= 1.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int = 32,
        width: float = 1.0,
        stem_channels: int = 16,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks = blocks_per_group("resnet", depth, extra_layers=2)
        channels = group_channels(stem_channels, width)
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.group1 = block_group(PostActivationBlock, channels[0], channels[0], blocks, stride=1)
        self.group2 = block_group(PostActivationBlock, channels[0], channels[1], blocks, stride=2)
        self.group3 = block_group(PostActivationBlock, channels[1], channels[2], blocks, stride=2)
        self.linear = nn.Linear(channels[2], num_classes)
        he_normal_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(b, in_channels, h, w)` to logits `(b, num_classes)`."""
        x = F.relu(self.norm(self.stem(images)), inplace=True)
        x = self.group3(self.group2(self.group1(x)))
        return self.linear(global_average(x))

"""Wide residual networks for small images (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ekd_train.models.residual_parts import (
    block_group,
    blocks_per_group,
    global_average,
    group_channels,
    he_normal_,
)


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 conv, twice, around a shortcut of the raw input.

    The ReLUs overwrite what their batch norm made; a norm that hands its input on would let them overwrite
    the shortcut's.

    The shortcut is the identity, or a strided 1x1 convolution of the raw input (before BN and
    ReLU) where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps `(b, in, h, w)` to `(b, out, h / stride, w / stride)`, rounded up."""
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return y + self.shortcut(x)


class WideResNet(nn.Module):
    """WRN-`depth`-`width`, pre-activation, for images of about 8 to 64 pixels.

    A 3x3 stem (not widened, no BN or ReLU after it), three groups of `(depth - 4) / 6` blocks with
    `stem_channels * width * (1, 2, 4)` channels, the second and third group at half the size of
    the one before, then BN, ReLU, global average pooling and a linear head. Weights start
    He-normal (fan-in), the bias at 0.

    Raises `ValueError` when `depth` is not 6n + 4 with n >= 1.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int = 28,
        width: float = 1.0,
        stem_channels: int = 16,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks = blocks_per_group("wide_resnet", depth, extra_layers=4)
        channels = group_channels(stem_channels, width)
        self.stem = nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False)
        self.group1 = block_group(PreActivationBlock, stem_channels, channels[0], blocks, stride=1)
        self.group2 = block_group(PreActivationBlock, channels[0], channels[1], blocks, stride=2)
        self.group3 = block_group(PreActivationBlock, channels[1], channels[2], blocks, stride=2)
        self.norm = nn.BatchNorm2d(channels[2])
        self.linear = nn.Linear(channels[2], num_classes)
        he_normal_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(b, in_channels, h, w)` to logits `(b, num_classes)`."""
        x = self.group3(self.group2(self.group1(self.stem(images))))
        x = F.relu(self.norm(x), inplace=True)
        return self.linear(global_average(x))

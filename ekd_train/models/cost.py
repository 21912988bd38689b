"""What a network costs."""

from collections.abc import Sequence

import torch
from torch import nn

from ekd_train.models.unfused_attention import unfused_attention


def count_parameters(module: nn.Module) -> int:
    """Number of parameters; one that is used at several places counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def count_macs(module: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-accumulates of convolutions and matrix products in the forward of one image.

    `image_shape` is `(channel, height, width)`. Normalisation, activation and pooling are not
    counted, as usual. Runs one image in evaluation mode and puts the mode back.
    """
    from torch.utils.flop_counter import FlopCounterMode  # late: it imports Triton, where that is installed

    modes = {part: part.training for part in module.modules()}
    like = next(module.parameters())
    counter = FlopCounterMode(display=False)
    module.eval()
    try:
        with counter, unfused_attention():
            module(torch.zeros(1, *image_shape, dtype=like.dtype, device=like.device))
    finally:
        for part, training in modes.items():
            part.training = training
    return counter.get_total_flops() // 2  # a multiply-accumulate is counted as two

"""How a training step computes: layout and precision. What it computes is in `step`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from ekd_train.settings import Speed


def lay_out(module: nn.Module, speed: Speed) -> None:
    """Order the weights of convolutions in memory as `speed` says, in place; their outputs follow.

    Only strides change. Weights decide because every image passes through them: images of one
    channel have no order of their own.
    """
    if speed.memory_format == "channels_last":
        module.to(memory_format=torch.channels_last)


def computing(speed: Speed, device: torch.device) -> AbstractContextManager[object]:
    """Within it, convolutions and matrix products compute in the precision that `speed` names.

    Weights, their gradients and the optimiser stay float32.
    """
    if speed.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)

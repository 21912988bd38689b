"""How a training step computes: layout and precision. What it computes is in `step`."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch import nn

from ekd_train.settings import Speed

WIDEST_REGISTER = 16
"""float32 numbers in one, of any x86 processor."""


def lay_out(module: nn.Module, speed: Speed) -> None:
    """Order the weights of convolutions in memory as `speed` says, in place; their outputs follow.

    Only strides change. Weights decide because every image passes through them: images of one
    channel have no order of their own. A network that `_is_unsafe` stays contiguous,
    and so do its maps: augmentation and perturbations give contiguous images.
    """
    if speed.memory_format == "channels_last" and not _is_unsafe(module):
        module.to(memory_format=torch.channels_last)


def _is_unsafe(module: nn.Module) -> bool:
    """Whether oneDNN would write beyond its memory in a backward pass with the channels last: the gradient of
    a strided 1x1 convolution of fewer channels than a register holds is wrong, or the process dies
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    return any(
        isinstance(m, nn.Conv2d)
        and m.weight.device.type == "cpu"
        and m.kernel_size == (1, 1)
        and max(m.stride) > 1
        and m.in_channels // m.groups < WIDEST_REGISTER
        for m in module.modules()
    )


def computing(speed: Speed, device: torch.device) -> AbstractContextManager[object]:
    """Within it, convolutions and matrix products compute in `precision_on(speed, device)`.

    Weights, their gradients and the optimiser stay float32. Use one context for networks that are
    evaluated without gradients and another for those with: autocast keeps converted weights until its end.
    """
    if precision_on(speed, device) == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision_on(speed, device)))


def compute_exactly() -> None:
    """In this process, CUDA computes in float32 what is float32, not in TF32, and cuDNN takes the same
    algorithms every time.

    Bits may still differ from run to run where a sum's order is the GPU's choice: the gradients of maximum
    pooling and of resizing.
    """
    # Not by fp32_precision: after it torch.export raises in this process, because the two ways disagree.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def precision_on(speed: Speed, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """What `speed.precision` is on `device`: auto depends on what it computes in."""
    if speed.precision != "auto":
        return speed.precision
    return "bfloat16" if _has_bfloat16(device.type) else "float32"


@cache
def _has_bfloat16(device_type: str) -> bool:
    """Whether it has instructions for it (x86, CUDA): emulated, it would be slower than float32."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))

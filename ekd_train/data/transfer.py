"""The way of a step's few values from the host to where images and networks are."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`.

    To a GPU from pinned memory, so that this process goes on while the copy is made.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)

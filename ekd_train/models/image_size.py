"""Whether a network can take images of a size."""

import copy

import torch
from torch import nn


def check_takes(name: str, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Run shapes only, without arithmetic, through a copy of `network` that has no weights.

    Raises `ValueError` that names `name` and the size when it cannot take `(channels, height, width)`.
    """
    weightless = {id(tensor): tensor.to("meta") for tensor in (*network.parameters(), *network.buffers())}
    shapes_only = copy.deepcopy(network, weightless).eval()
    try:
        shapes_only(torch.empty(1, *image_shape, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        height, width = image_shape[1:]
        raise ValueError(
            f"{name} cannot take {height}x{width} images ({error}); "
            "use larger images, small_images, wide_resnet or resnet"
        ) from error

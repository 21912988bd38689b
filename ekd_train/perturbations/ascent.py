"""Pixel gradients that leave networks as they were, and steps of a given length along them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

GREY_LEVELS = 255


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Networks in eval mode, so that no running statistic moves; every module's own mode is restored."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def pixel_gradient(images: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """`∇_images objective(images)`, detached, of the images' shape.

    Parameters gather no gradient. Works inside a caller's `no_grad` or `inference_mode` too.

    Args:
        images: `(b, ...)`.
        objective: to one value per image, `(b,)`. They are *summed*: in eval mode an image's gradient
            then depends on nothing but the image, whatever batch or share of one it is part of.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(pixels).sum(), pixels)
    return gradient


def one_grey_level(gradient: Tensor) -> Tensor:
    """`√D/255 · g/‖g‖₂` per image: a root-mean-square change of one grey level; 0 where g is 0.

    Dividing by the largest entry first keeps the squares of tiny gradients, as confident networks
    give them, from underflowing, so no epsilon is needed that would shorten their steps.

    Args:
        gradient: `(b, ...)`, D values per image.
    """
    axes = tuple(range(1, gradient.ndim))
    largest = gradient.abs().amax(dim=axes, keepdim=True)
    scaled = gradient / torch.where(largest == 0, 1, largest)
    norm = scaled.square().sum(dim=axes, keepdim=True).sqrt()
    length = math.sqrt(gradient[0].numel()) / GREY_LEVELS if len(gradient) else 0.0
    return length * scaled / torch.where(norm == 0, 1, norm)

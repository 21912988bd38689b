"""The images as they are."""

import torch
from torch import Tensor

from ekd_train.perturbations.draw import Draw
from ekd_train.perturbations.perturbation import Networks


def none(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """No displacement."""
    return torch.zeros_like(images)

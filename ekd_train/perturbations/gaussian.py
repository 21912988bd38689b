"""Gaussian noise: the control for perturbations that follow a gradient."""

from torch import Tensor

from ekd_train.perturbations.ascent import GREY_LEVELS
from ekd_train.perturbations.draw import Draw
from ekd_train.perturbations.perturbation import Networks


def gaussian(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """`N(0, I) / 255`, fresh for every value (Nam, Yoon, Lee, Lee 2021). Evaluates no network."""
    return draw.normal(images.shape[1:], like=images) / GREY_LEVELS

"""Noise of a sensor: too little light, and pixels that fail."""

import torch
from torch import Tensor


def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Adds `N(0, sigma²)` to every value; sigma of 0.04 to 0.10."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + sigma * torch.randn(images.shape, generator=generator).to(images.device)


def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """`Poisson(x · n) / n`: white is n photons, 500 down to 50."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return (torch.poisson(images.cpu() * photons, generator=generator) / photons).to(images.device)


def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Makes 1 to 7 % of the values black or white, as many of each ("salt and pepper")."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    fate = torch.rand(images.shape, generator=generator).to(images.device)
    return images.masked_fill(fate < amount / 2, 0.0).masked_fill(fate > 1 - amount / 2, 1.0)

"""How weights start."""

import torch
from torch import nn


def he_normal_(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Redraws, in place, every Conv2d and Linear weight from N(0, 2 / fan_in) and zeroes biases.

    He et al. 2015, arXiv 1502.01852, equation 10. Without a generator the global one is used.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

"""The networks that a student learns from."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn


class Teachers(nn.Module):
    """Frozen networks, of any architectures, with the same classes.

    Takes the networks over: they are set to evaluation mode and their parameters no longer require
    gradients, in place and for good; `train()` on this module, or on one that holds it, changes
    nothing. Gradients with respect to *images* still flow, which the perturbations need.

    Raises `ValueError` when there is no teacher.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("at least one teacher is needed")
        self.networks = nn.ModuleList(networks)
        self.requires_grad_(False)
        self.train(False)

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, index: int) -> nn.Module:
        return self.networks[index]

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.networks)

    def rotated(self, step: int, count: int) -> "Teachers":
        """The `count` teachers that follow one another from number `step` modulo k on."""
        return Teachers([self.networks[(step + m) % len(self)] for m in range(count)])

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever `mode` is."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(k, b, c)` of every teacher. Raises `ValueError` when their shapes differ."""
        logits = [network(images) for network in self.networks]
        shapes = [tuple(one.shape) for one in logits]
        if len(set(shapes)) > 1:
            raise ValueError(f"teachers must have the same classes; their logits have shapes {shapes}")
        return torch.stack(logits)

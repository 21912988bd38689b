"""Small networks that count how they are evaluated, and tell what they were asked."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CLASSES, SHAPE = 5, (3, 4, 4)
VALUES = 3 * 4 * 4


def images(count: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Away from 0 and 1, so that a small step is not clipped."""
    noise = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.25 + noise / 2).to(dtype)


class Linear(nn.Module):
    """Logits `W x`, whose gradients can be written down; counts evaluations and those with gradient."""

    def __init__(self, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(100 + seed)
        weight = scale * torch.randn(CLASSES, VALUES, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight.to(dtype))
        self.evaluations = 0
        self.differentiated = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.evaluations += 1
        self.differentiated += torch.is_grad_enabled()
        return pixels.flatten(1) @ self.weight.T


class LinearMembers(nn.Module):
    """The `Subnetworks` protocol over `Linear` members."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.num_members = len(members)

    def forward(self, pixels: Tensor, members: Sequence[int] | None = None) -> Tensor:
        chosen = range(self.num_members) if members is None else members
        return torch.stack([self.members[index](pixels) for index in chosen])


class Normalised(nn.Module):
    """Has BatchNorm and dropout, which show whether it was evaluated in train or eval mode."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.norm(self.convolution(pixels))).mean(dim=(2, 3))))

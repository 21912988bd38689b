"""What is read of a network that exists already."""

from dataclasses import dataclass

from torch import Tensor

from ekd_train.settings import Architecture


@dataclass(frozen=True)
class PretrainedNetwork:
    """Its weights, and what is known beside them; None: not known there."""

    weights: dict[str, Tensor]
    """A state dict, with whatever prefix its writer's wrappers have put before the names."""
    sha256: str
    """Of the bytes that it was read from."""
    architecture: Architecture | None = None
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    class_names: tuple[str, ...] | None = None
    """In the order of the logits."""

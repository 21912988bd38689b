"""What is read of a network that exists already."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ekd_train.settings import Architecture
from orchestrator.pretrained.same_function import Program


@dataclass(frozen=True)
class PretrainedNetwork:
    """Its weights, and what is known beside them; None: not known there."""

    weights: dict[str, Tensor]
    """A state dict, with whatever prefix its writer's wrappers have put before the names."""
    sha256: str
    """Of the bytes that it was read from; where one part of them was named, of that part's tensors."""
    architecture: Architecture | None = None
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    class_names: tuple[str, ...] | None = None
    """In the order of the logits."""
    parts: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    """Where what was read holds more than one state dict, each by its key, `weights` among them."""
    key: str = ""
    """Of `weights` in what was read; empty: it is all of it."""
    passed_over: tuple[str, ...] = ()
    """Names of tensors that were left out of `weights`, because they are no part of a network."""
    program: Program | None = None
    """What they were read from, where the weights alone do not say which function that is: it may normalise
    within itself."""
    address: str | None = None
    """`models:/NAME/VERSION`, where that is what an alias pointed to."""

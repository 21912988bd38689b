"""Whether an architecture with the weights of a program is the function that the program is."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ekd_train.data.description import ImageSpec
from ekd_train.models.build_network import build_plain
from ekd_train.settings import Architecture
from orchestrator.errors import ExperimentError

TOLERANCE = 1e-3
"""Largest difference of logits, absolute and relative: other kernels differ by less, another normalisation by
more."""


@dataclass(frozen=True)
class Program:
    """An exported network that takes images in [0, 1], and does with them what nobody has said."""

    network: nn.Module
    """(b, channel, height, width) -> logits (b, c)."""
    image_shape: tuple[int, int, int]
    batch: int
    """How many images it takes at once; of those that take any number, two."""


@torch.no_grad()
def check_same(
    program: Program, architecture: Architecture, state: Mapping[str, Tensor], spec: ImageSpec
) -> None:
    """Compare logits of random images of the program's size.

    Args:
        program: whose weights they are.
        architecture: with the mean and std that the experiment states.
        state: of its classifier.
        spec: of the data, whose images may have another size, and one channel instead of three.

    Raises `ExperimentError`: it cannot be run, or gives other logits.
    """
    channels, height, width = program.image_shape
    images = torch.rand(
        program.batch, spec.image_shape[0], height, width, generator=torch.Generator().manual_seed(0)
    )
    own = spec.model_copy(update={"image_shape": (spec.image_shape[0], height, width)})
    classifier = build_plain(architecture.model_copy(update={"image_size": None}), own)
    classifier.load_state_dict(state, strict=False)
    try:
        expected = program.network(images.expand(-1, channels, -1, -1).contiguous())
    except Exception as error:  # whatever a program does
        raise ExperimentError(f"its program cannot be run: {' '.join(str(error).split())[:200]}") from None
    found = classifier.eval()(images)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE):
        raise ExperimentError(
            f"as architecture {architecture.name} with this mean and std its weights give other logits than "
            "its own program does; state the mean and std that it has within (0 and 1, if none), and its "
            "architecture, or use the program itself (docs/teachers.md, Only an exported program)"
        )

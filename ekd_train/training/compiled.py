"""Compiling a network's blocks for a GPU: fewer passes over its memory, and fewer kernels to start."""

from typing import Literal

import torch
from torch import nn

from ekd_train.training.recompute import blocks

RECOMPILE_LIMIT = 256
"""Each block is compiled for each mode, member and way of taking gradients, and all share one forward."""


def compile_blocks(
    network: nn.Module,
    how: Literal["no", "blocks", "graphs"],
    device: torch.device,
    backend: str = "inductor",
) -> None:
    """Have the outermost blocks of `network` compiled as they are first called, each as one graph, in place.

    `graphs`: and what they start on the GPU recorded as CUDA graphs. Of another device than a GPU nothing is
    compiled, but with `backend: aot_eager`, which shows that a block is one graph. A block that is not one
    raises torch's error in the first step.
    """
    if how == "no" or (device.type != "cuda" and backend == "inductor"):
        return
    mode = "reduce-overhead" if how == "graphs" and device.type == "cuda" else None
    for block in blocks(network):
        block.compile(fullgraph=True, recompile_limit=RECOMPILE_LIMIT, backend=backend, mode=mode)


def begin_step(how: Literal["no", "blocks", "graphs"], device: torch.device) -> None:
    """Say that what recorded graphs have put out before is used no more."""
    if how == "graphs" and device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()

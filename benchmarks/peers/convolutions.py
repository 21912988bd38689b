"""A BatchEnsemble convolution, forward and backward: ours, torch-uncertainty's, and a plain one.

Runs in the peers' environment, where this project's layers need torch only; prints JSON.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.timing import DEVICE, DTYPES, compare
from ekd_train.models.batch_ensemble_layers import BatchEnsembleConv
from ekd_train.models.member_layers import ActiveMembers

MEMBERS, IMAGES = 4, 64
SHAPES = ((16, 32), (32, 16), (64, 8))
"""(channels, pixels) of the three groups of a WRN-16-1 on 32 px images."""
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def their_convolution() -> type[nn.Module]:
    """torch-uncertainty's `BatchConv2d`, from its file: its package imports Lightning and much more."""
    package = importlib.util.find_spec("torch_uncertainty")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = f"{package.submodule_search_locations[0]}/layers/batch_ensemble.py"
    spec = importlib.util.spec_from_file_location("batch_ensemble", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BatchConv2d


def measure(precision: str, channels: int, pixels: int, rounds: int = 9) -> dict[str, float]:
    """Seconds over `MEMBERS` x `IMAGES` maps by `KIND, LAYOUT`."""
    torch.manual_seed(0)
    active = ActiveMembers(tuple(range(MEMBERS)))
    plain = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    theirs = their_convolution()(channels, channels, 3, MEMBERS, padding=1, bias=False)
    layers = {
        "plain": plain,
        "ours": BatchEnsembleConv(copy.deepcopy(plain), "ours", MEMBERS, active),
        "theirs": theirs,
    }
    calls = {
        f"{kind}, {layout}": _forward_and_backward(
            copy.deepcopy(layer), channels, pixels, LAYOUTS[layout], precision
        )
        for layout in LAYOUTS
        for kind, layer in layers.items()
    }
    return compare(calls, rounds=rounds)


def _forward_and_backward(
    layer: nn.Module, channels: int, pixels: int, layout: torch.memory_format, precision: str
) -> Callable[[], object]:
    layer.to(DEVICE, memory_format=layout)
    shape, dtype = (MEMBERS * IMAGES, channels, pixels, pixels), DTYPES[precision]
    maps = torch.randn(shape, device=DEVICE).to(dtype, memory_format=layout).requires_grad_()
    gradient = torch.randn(shape, device=DEVICE).to(dtype, memory_format=layout)

    def call() -> None:
        maps.grad = None
        layer.zero_grad()
        with torch.autocast(DEVICE.type, dtype, enabled=precision != "float32"):
            out = layer(maps)
        out.backward(gradient)

    return call


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([measure(precision, *shape) for precision in DTYPES for shape in SHAPES]))

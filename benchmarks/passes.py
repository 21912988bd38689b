"""Target 1: how many single-network forwards a whole training step costs, counted, not timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.result import Result, table
from benchmarks.workload import CHANNELS, Workload
from ekd_train.settings import PerturbationKind
from orchestrator.runtime.environment import in_the_environment

SMALL = Workload(batch_size=8, images=64, image_size=16)
"""Pass counts do not depend on size, but for the stem, whose first input needs no gradient."""

LIMITS: dict[PerturbationKind, int] = {"tdiv_sdiv": 22, "tdiv": 19, "none": 16}
CACHED_LIMIT, REFERENCE = 12, 32


class FlopCount(TorchDispatchMode):
    """Counts floating-point operations of convolutions and matrix products, gradients included.

    torch's `FlopCounterMode` also follows modules, with hooks that `torch.autograd.grad` refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products in `call`."""
    with FlopCount() as count:
        call()
    return count.total


def forward_equivalents(workload: Workload, step: Callable[[], object]) -> float:
    """What `step` costs, in forwards of one plain network over the batch."""
    network = workload.network().eval()
    images = torch.rand(workload.batch_size, CHANNELS, workload.image_size, workload.image_size)
    with torch.no_grad():
        single = flops(lambda: network(images))
    return flops(step) / single


def measure(workload: Workload = SMALL) -> list[Result]:
    """The count of every kind of step, and of the straightforward formulation."""
    results = []
    for kind, limit in LIMITS.items():
        changed = workload.changed(perturbation=kind)
        count = forward_equivalents(changed, changed.step())
        results.append(Result(1, f"passes, LatentBE-4 + {kind}", count, limit, "smaller", "forwards"))
    cached = workload.changed(
        perturbation="none", augmented=False, speed=workload.speed.model_copy(update={"cache_teachers": True})
    )
    with tempfile.TemporaryDirectory() as folder, in_the_environment({"XDG_CACHE_HOME": folder}):
        count = forward_equivalents(cached, cached.step())
    results.append(Result(1, "passes, LatentBE-4, cached", count, CACHED_LIMIT, "smaller", "forwards"))
    count = forward_equivalents(workload, workload.straightforward_step())
    results.append(
        Result(1, "passes, straightforward tdiv_sdiv", count, unit="forwards", note="reference 32")
    )
    return results


if __name__ == "__main__":
    print(table(measure()))

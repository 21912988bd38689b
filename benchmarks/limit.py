"""Target 4: achieved FLOP/s of a training step over the best that convolutions or products reach here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.passes import flops
from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.workload import Workload
from ekd_train.settings import Speed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    Workload(architecture=architecture, image_size=size, method=method)
    for architecture, size in (("WRN-10-1", 28), ("WRN-16-1", 32), ("ResNet-8", 32))
    for method in ("latent_be", "teacher")
]


def best_flops_per_s(dtype: torch.dtype) -> float:
    """The larger of a square matrix product's and a 64-channel 3x3 convolution's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(2, 1024, 1024, device=device).to(dtype).unbind(0)
    x = torch.randn(64, 64, 32, 32, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    calls = {"product": lambda: a @ b, "convolution": lambda: F.conv2d(x, weight, padding=1)}
    with torch.no_grad():
        seconds = compare(calls, rounds=9)
        return max(flops(calls[name]) / seconds[name] for name in calls)


def measure(cases: Sequence[Workload] = CASES, rounds: int = 5) -> list[Result]:
    """MFU in percent of each case in each precision; the limit is measured beside it."""
    results = []
    for name, dtype in DTYPES.items():
        for case in cases:
            step = case.changed(speed=Speed.model_validate({"precision": name})).step()
            work = flops(step)
            seconds = compare({"step": step}, rounds=rounds)["step"]
            limit = best_flops_per_s(dtype)
            note = f"{work / seconds / 1e9:.0f} of {limit / 1e9:.0f} GFLOP/s"
            percent = 100 * work / seconds / limit
            results.append(Result(4, f"MFU, {case.name}, {name}", percent, 50, unit="%", note=note))
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(measure()))
    print(conditions())

"""Target 4: achieved FLOP/s of a training step over the best that convolutions or products reach here.

`python -m benchmarks.limit --profile` shows where the rest of a step's time goes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.passes import flops
from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.turns import set_up_as_a_worker
from benchmarks.workload import Workload
from ekd_train.settings import Speed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    Workload(architecture=architecture, image_size=size, method=method)
    for architecture, size in (("WRN-10-1", 28), ("WRN-16-1", 32), ("ResNet-8", 32))
    for method in ("latent_be", "teacher")
]
CASES += [
    Workload(architecture="WRN-16-1", stem_channels=64, image_size=32, batch_size=32, method=method)
    for method in ("latent_be", "teacher")
]
"""The networks of the other benchmarks, and one of a width that is used for its accuracy: what keeps the
others from the limit is that their layers are narrow."""


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


KINDS = {
    "convolutions": {"mkldnn_convolution", "cudnn_convolution", "convolution_backward"},
    "batch norm": {f"{of}batch_norm{way}" for of in ("native_", "cudnn_") for way in ("", "_backward")},
    "ReLU": {"relu", "relu_", "clamp_min", "clamp_min_", "threshold_backward"},
    "joining members": {"cat"},
    "sums": {"add", "add_"},
    "pooling": {"avg_pool2d", "avg_pool2d_backward", "constant_pad_nd"},
    "copies": {"copy_", "fill_"},
}
"""ATen's operations."""


def where_time_goes(case: Workload, steps: int = 3) -> dict[str, float]:
    """Percent of a step's time that each kind of operation takes, and of the limit within convolutions.

    The profiler's own time is in "the rest"; the head's few FLOPs count as the convolutions'.
    """
    step = case.step()
    work = steps * flops(step)
    with torch.profiler.profile() as profiler:
        for _ in range(steps):
            step()
    seconds = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profiler.key_averages():
        fits = (kind for kind, names in KINDS.items() if event.key.removeprefix("aten::") in names)
        seconds[next(fits, "the rest")] += event.self_cpu_time_total / 1e6
    shares = {kind: 100 * value / sum(seconds.values()) for kind, value in seconds.items()}
    limit = best_flops_per_s(DTYPES[case.speed.precision])
    return shares | {"of the limit in convolutions": 100 * work / seconds["convolutions"] / limit}


def profile_table(cases: Sequence[Workload] = CASES) -> str:
    """Markdown: a row for each case and precision."""
    rows = {
        f"{case.name}, {name}": where_time_goes(case.changed(speed=Speed.model_validate({"precision": name})))
        for case in cases
        for name in DTYPES
    }
    columns = list(next(iter(rows.values())))
    lines = [f"| % of the time | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{row[c]:.1f}' for c in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    set_up_as_a_worker()
    torch.set_num_threads(1)
    print(profile_table() if "--profile" in sys.argv[1:] else table(measure()))
    print(conditions())

"""Target 4: achieved FLOP/s of a training step over the best that convolutions or products reach here.

`python -m benchmarks.limit --profile` shows where the rest of a step's time goes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from benchmarks.passes import flops
from benchmarks.result import Result, table
from benchmarks.timing import DEVICE, DTYPES, compare, conditions
from benchmarks.turns import set_up_as_a_worker
from benchmarks.workload import Workload
from ekd_train.settings import Speed
from ekd_train.training.speed import precision_on

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


Calls = dict[str, Callable[[], object]]


def fastest(dtype: torch.dtype) -> Calls:
    """What comes nearest to the machine's limit: a square matrix product and a 3x3 convolution."""
    side, channels = (8192, 256) if DEVICE.type == "cuda" else (1024, 64)
    a, b = torch.randn(2, side, side, device=DEVICE).to(dtype).unbind(0)
    x, weight = (
        torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((64, channels, 32, 32), (channels, channels, 3, 3))
    )
    return {"product": lambda: a @ b, "convolution": lambda: F.conv2d(x, weight, padding=1)}


def flops_per_s(calls: Calls, rounds: int) -> dict[str, float]:
    """Of each, measured in turns."""
    work = {name: flops(call) for name, call in calls.items()}
    return {name: work[name] / seconds for name, seconds in compare(calls, rounds=rounds).items()}


def measure(cases: Sequence[Workload] = CASES, rounds: int = 5) -> list[Result]:
    """MFU in percent of each case in each precision; the limit is measured in turns with it."""
    results = []
    for name, dtype in DTYPES.items():
        for case in cases:
            step = case.changed(speed=Speed.model_validate({"precision": name})).step()
            found = flops_per_s({"step": step, **fastest(dtype)}, rounds)
            achieved = found.pop("step")
            limit = max(found.values())
            note = f"{achieved / 1e9:.0f} of {limit / 1e9:.0f} GFLOP/s"
            percent = 100 * achieved / limit
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
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel, whose time its operation has too
        fits = (kind for kind, names in KINDS.items() if event.key.removeprefix("aten::") in names)
        spent = event.self_device_time_total if DEVICE.type == "cuda" else event.self_cpu_time_total
        seconds[next(fits, "the rest")] += spent / 1e6
    shares = {kind: 100 * value / sum(seconds.values()) for kind, value in seconds.items()}
    limit = max(flops_per_s(fastest(DTYPES[precision_on(case.speed, DEVICE)]), rounds=9).values())
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

"""Target 5, on several workers: what Ray Train costs, and what a second worker brings."""

from __future__ import annotations

import os
import statistics
import sys
from contextlib import ExitStack

from benchmarks.result import Result, Skipped, table
from benchmarks.timing import conditions
from benchmarks.turns import Side, in_turns
from benchmarks.workload import Workload

WORKERS = 2
STEPS, WARM_UP = 10, 4
CASE = Workload(architecture="WRN-16-1", image_size=32, method="teacher", images=128 * 500)
"""Its epoch is longer than the benchmark, so that steps alone are timed."""


def measure(rounds: int = 7) -> list[Result | Skipped]:
    """Steps of one worker, of two in a plain process group, under Ray Train, and strangers, in turns."""
    if (os.cpu_count() or 1) < WORKERS:
        return [Skipped(5, "several workers", f"this machine has fewer than {WORKERS} cores")]
    plain = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    alone = [*plain, "--nproc-per-node", "1", "-m", "benchmarks.worker_side"]
    torchrun = [*plain, "--nproc-per-node", str(WORKERS), "-m", "benchmarks.worker_side"]
    ray = [sys.executable, "-m", "benchmarks.ray_side"]
    with ExitStack() as stack:
        # None is paused: torchrun's and Ray's processes are no children of a group that signals reach.
        sides = {
            "one": stack.enter_context(Side(alone, pausable=False)),
            "torchrun": stack.enter_context(Side(torchrun, pausable=False)),
            "apart": stack.enter_context(Side([*torchrun, "apart"], pausable=False)),
            "ray": stack.enter_context(Side(ray, pausable=False)),
        }
        seconds = in_turns(sides, steps=STEPS, rounds=rounds, warm_up=WARM_UP)
    overhead = 100 * (_ratio(seconds["ray"], seconds["torchrun"]) - 1)
    rates = ", ".join(f"{k}: {CASE.batch_size / statistics.median(v):.0f}" for k, v in seconds.items())
    strangers = _ratio(seconds["one"], seconds["apart"])
    note = f"two that exchange nothing, each half of the batch: {strangers:.2f}"
    return [
        Result(5, f"Ray Train over torchrun, {CASE.name}", overhead, 1, "smaller", "%", f"images/s: {rates}"),
        Result(5, f"{WORKERS} workers over one", _ratio(seconds["one"], seconds["torchrun"]), 1.8, note=note),
    ]


def _ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    print(table(measure()))
    print(conditions())

"""Target 5, on several workers: what Ray Train costs, and what a second worker brings."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.result import Result, Skipped, table
from benchmarks.timing import conditions
from benchmarks.turns import Side, in_turns
from benchmarks.workload import Workload

WORKERS = 2
STEPS, WARM_UP = 10, 4
_WORKLOAD = Workload(architecture="WRN-16-1", image_size=32, images=128 * 500)
CASES = {
    "teacher": _WORKLOAD.changed(method="teacher"),
    "teacher, large batch": _WORKLOAD.changed(method="teacher", batch_size=512),
    "student": _WORKLOAD.changed(method="latent_be"),
}
"""Their epochs are longer than the benchmark, so that steps alone are timed. With a batch of 512 what workers
wait for each other in every step weighs less."""


def measure(rounds: int = 7) -> list[Result | Skipped]:
    """Steps of one worker, of two in a plain process group, under Ray Train, and strangers, in turns."""
    if (os.cpu_count() or 1) < WORKERS:
        return [Skipped(5, "several workers", f"this machine has fewer than {WORKERS} cores")]
    return [*(_two_over_one(case, rounds) for case in CASES), _ray_over_torchrun("teacher", rounds)]


def _two_over_one(case: str, rounds: int) -> Result:
    """No Ray is there: its daemons would take from two workers what one leaves free."""
    seconds = _timed({name: _side(name, case) for name in ("one", "together", "in step", "apart")}, rounds)
    limits = ", ".join(
        f"{what} {_ratio(seconds['one'], seconds[name]):.2f}"
        for name, what in (("in step", "that only wait for each other"), ("apart", "that exchange nothing"))
    )
    ratio = _ratio(seconds["one"], seconds["together"])
    batch = CASES[case].batch_size
    what = f"{WORKERS} workers over one, {CASES[case].name}, batch {batch}"
    return Result(
        5, what, ratio, 1.8, note=f"two, each half of the batch, {limits}; {_rates(seconds, batch)}"
    )


def _ray_over_torchrun(case: str, rounds: int) -> Result:
    ray = [sys.executable, "-m", "benchmarks.ray_side", case]
    seconds = _timed({"torchrun": _side("together", case), "ray": ray}, rounds)
    overhead = 100 * (_ratio(seconds["ray"], seconds["torchrun"]) - 1)
    what = f"Ray Train over torchrun, {CASES[case].name}"
    return Result(5, what, overhead, 1, "smaller", "%", _rates(seconds, CASES[case].batch_size))


def _side(name: str, case: str) -> list[str]:
    plain = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    count = 1 if name == "one" else WORKERS
    return [*plain, "--nproc-per-node", str(count), "-m", "benchmarks.worker_side", case, name]


def _timed(commands: Mapping[str, list[str]], rounds: int) -> dict[str, list[float]]:
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(command, keeps_memory=True)) for name, command in commands.items()
        }
        return in_turns(sides, steps=STEPS, rounds=rounds, warm_up=WARM_UP)


def _rates(seconds: Mapping[str, list[float]], batch: int) -> str:
    return "images/s: " + ", ".join(f"{k} {batch / statistics.median(v):.0f}" for k, v in seconds.items())


def _ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    print(table(measure()))
    print(conditions())

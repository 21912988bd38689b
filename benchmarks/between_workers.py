"""Target 5, on several workers: what Ray Train costs, and what a second worker brings."""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch

from benchmarks.result import Result, Skipped, table
from benchmarks.timing import conditions
from benchmarks.turns import Side, in_turns
from benchmarks.workload import Workload

WORKERS = 2
STEPS, WARM_UP = 10, 4
COUNTED_STEPS = 100
_WORKLOAD = Workload(architecture="WRN-16-1", image_size=32, images=128 * 500)
CASES = {
    "teacher": _WORKLOAD.changed(method="teacher"),
    "teacher, large batch": _WORKLOAD.changed(method="teacher", batch_size=512),
    "student": _WORKLOAD.changed(method="latent_be"),
}
"""Their epochs are longer than the benchmark, so that steps alone are timed. With a batch of 512 what workers
wait for each other in every step weighs less."""


def measure(rounds: int = 7) -> list[Result | Skipped]:
    """Steps of one worker, of two in a plain process group, under Ray Train, and strangers, in turns.

    `rounds`: of each, at least 2.
    """
    if (os.cpu_count() or 1) < WORKERS:
        return [Skipped(5, "several workers", f"this machine has fewer than {WORKERS} cores")]
    return [*(_two_over_one(case, rounds) for case in CASES), *_ray_over_torchrun("teacher", rounds)]


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


def _ray_over_torchrun(case: str, rounds: int) -> list[Result | Skipped]:
    """By the clock, where the machine's noise is larger than what Ray costs; and by what its threads do.

    The second is an upper bound: what other threads take while training waits, or of a core to spare, costs
    it nothing.
    """
    under_ray = [sys.executable, "-m", "benchmarks.ray_side", case]
    with _running({"torchrun": _side("together", case), "ray": under_ray}) as sides:
        seconds = in_turns(sides, steps=STEPS, rounds=rounds, warm_up=WARM_UP)
        shares = [[100 * s.share_beside(WORKERS, COUNTED_STEPS) for s in sides.values()] for _ in range(3)]
    what = f"Ray Train over torchrun, {CASES[case].name}"
    slower = [100 * math.log(b / a) for a, b in zip(seconds["torchrun"], seconds["ray"], strict=True)]
    by_the_clock = f"{_error(slower)}; {_rates(seconds, CASES[case].batch_size)}"
    found: list[Result | Skipped] = [
        Result(5, what, statistics.mean(slower), 1, "smaller", "%", by_the_clock),
    ]
    what += ", CPU time"
    if torch.cuda.is_available():
        return [*found, Skipped(5, what, "with a GPU the busiest threads are not those that train alone")]
    more = [ray - plain for plain, ray in shares]
    plain, ray = (statistics.mean(side) for side in zip(*shares, strict=True))
    of_training = f"{_error(more)}; of the training threads': {ray:.1f} %, under torchrun {plain:.1f} %"
    return [*found, Result(5, what, statistics.mean(more), 1, "smaller", "%", of_training)]


def _error(values: list[float]) -> str:
    return f"± {statistics.stdev(values) / math.sqrt(len(values)):.1f}, standard error"


def _side(name: str, case: str) -> list[str]:
    plain = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    count = 1 if name == "one" else WORKERS
    return [*plain, "--nproc-per-node", str(count), "-m", "benchmarks.worker_side", case, name]


def _timed(commands: Mapping[str, list[str]], rounds: int) -> dict[str, list[float]]:
    with _running(commands) as sides:
        return in_turns(sides, steps=STEPS, rounds=rounds, warm_up=WARM_UP)


@contextmanager
def _running(commands: Mapping[str, list[str]]) -> Iterator[dict[str, Side]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Side(one, keeps_memory=True)) for name, one in commands.items()}


def _rates(seconds: Mapping[str, list[float]], batch: int) -> str:
    return "images/s: " + ", ".join(f"{k} {batch / statistics.median(v):.0f}" for k, v in seconds.items())


def _ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    print(table(measure()))
    print(conditions())

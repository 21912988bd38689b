"""Target 5, on several workers: what Ray Train costs, and what a second worker brings."""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from benchmarks.result import Result, Skipped, table
from benchmarks.timing import conditions
from benchmarks.turns import Side, in_turns
from benchmarks.workload import Workload

WORKERS = 2
STEPS, WARM_UP = 10, 4
COUNTED_STEPS = 200
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


def _ray_over_torchrun(case: str, rounds: int) -> list[Result]:
    """By the clock, where the machine's noise is larger than what Ray costs; and by what its threads do.

    Where all cores train, a second that another thread has is a second less for training. With a core to
    spare it costs nothing.
    """
    ray = [sys.executable, "-m", "benchmarks.ray_side", case]
    commands = {"torchrun": _side("together", case), "ray": ray}
    with _running(commands) as sides:
        seconds = in_turns(sides, steps=STEPS, rounds=rounds, warm_up=WARM_UP)
        beside = {name: 100 * side.beside(WORKERS, COUNTED_STEPS) for name, side in sides.items()}
    slower = [100 * math.log(b / a) for a, b in zip(seconds["torchrun"], seconds["ray"], strict=True)]
    error = statistics.stdev(slower) / math.sqrt(rounds)
    what = f"Ray Train over torchrun, {CASES[case].name}"
    rates = f"± {error:.1f}, standard error; {_rates(seconds, CASES[case].batch_size)}"
    shares = (
        f"of the training threads' CPU time: {beside['ray']:.1f} %, under torchrun {beside['torchrun']:.1f} %"
    )
    return [
        Result(5, what, statistics.mean(slower), 1, "smaller", "%", rates),
        Result(5, f"{what}, CPU time", beside["ray"] - beside["torchrun"], 1, "smaller", "%", shares),
    ]


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

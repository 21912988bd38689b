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
from benchmarks.timing import conditions, median_with_interval
from benchmarks.turns import Side, in_turns
from benchmarks.workload import Workload

WORKERS = 2
STEPS, WARM_UP, SETTLE = 10, 4, 3
TURN_S = 10
"""Of Ray against torchrun: what Ray's daemons do every few seconds falls into a turn, not between two."""
COUNTED_STEPS = 100
SINGLE_STEPS, SINGLE_SETTLE = 40, 2
_WORKLOAD = Workload(architecture="WRN-16-1", image_size=32, images=128 * 500)
CASES = {
    "teacher": _WORKLOAD.changed(method="teacher"),
    "teacher, large batch": _WORKLOAD.changed(method="teacher", batch_size=512),
    "student": _WORKLOAD.changed(method="latent_be"),
}
"""Nothing is validated or saved, and epochs are long, so that steps alone are timed. With a batch of 512 what
workers wait for each other in every step weighs less."""


def measure(rounds: int = 9, pairs: int = 15, starts: int = 6) -> list[Result | Skipped]:
    """Steps of one worker, of two in a plain process group, under Ray Train, and strangers, in turns.

    Args:
        rounds: of each worker group without Ray, at least 6.
        pairs: of turns under Ray Train and torchrun, at least 6.
        starts: of processes whose single steps are compared, at least 6.
    """
    results: list[Result | Skipped] = [
        _ray_over_torchrun("teacher", 1, pairs),
        *_undisturbed("teacher", starts),
    ]
    there = torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1
    if there < WORKERS:
        return [*results, Skipped(5, "several workers", f"this machine has room for {there}")]
    return [
        *results,
        *(_two_over_one(case, rounds) for case in CASES),
        _ray_over_torchrun("teacher", WORKERS, pairs),
        _ray_beside_training("teacher"),
    ]


def _two_over_one(case: str, rounds: int) -> Result:
    """No Ray is there: its daemons would take from two workers what one leaves free."""
    sides = {name: _side(name, case) for name in ("one", "together", "in step", "apart")}
    with _running(sides) as started:
        seconds = in_turns(started, steps=STEPS, rounds=rounds, warm_up=WARM_UP)
    (ratio, low, high), waiting, strangers = (
        median_with_interval([a / b for a, b in zip(seconds["one"], seconds[name], strict=True)])
        for name in ("together", "in step", "apart")
    )
    batch = CASES[case].batch_size
    what = f"{WORKERS} workers over one, {CASES[case].name}, batch {batch}"
    limits = f"that only wait for each other {waiting[0]:.2f}, that exchange nothing {strangers[0]:.2f}"
    note = f"two, each half of the batch, {limits}; {_rates(seconds, batch)}"
    return Result(5, what, ratio, 1.8, note=note, interval=(low, high))


def _ray_over_torchrun(case: str, workers: int, pairs: int) -> Result:
    """By the clock: of one worker, with a core to spare for Ray's daemons, or of as many as there are."""
    name = "one" if workers == 1 else "together"
    with _running({"torchrun": _side(name, case), "ray": _under_ray(case, workers)}) as sides:
        steps = math.ceil(TURN_S * WARM_UP / sides["torchrun"].take(WARM_UP, settle=WARM_UP))
        seconds = in_turns(sides, steps=steps, rounds=pairs, warm_up=WARM_UP, settle=SETTLE)
    slower = [100 * math.log(b / a) for a, b in zip(seconds["torchrun"], seconds["ray"], strict=True)]
    median, low, high = median_with_interval(slower)
    what = f"Ray Train over torchrun, {CASES[case].name}, workers: {workers}"
    note = f"median of {pairs} pairs of {steps} steps; {_rates(seconds, CASES[case].batch_size)}"
    return Result(5, what, median, 1, "smaller", "%", note, (low, high))


def _undisturbed(case: str, starts: int) -> Iterator[Result]:
    """By the fastest tenth of single steps, which a busy host leaves alone; torchrun against itself too.

    Each start is of new processes, which differ by where their memory lies.
    """
    commands = {
        "torchrun": _side("one", case),
        "torchrun again": _side("one", case),
        "Ray Train": _under_ray(case, 1),
    }
    slower: dict[str, list[float]] = {name: [] for name in commands}
    for start in range(starts):
        order = list(commands)[start % 3 :] + list(commands)[: start % 3]
        with _running(commands) as sides:
            for side in sides.values():
                side.take(WARM_UP)  # none is still starting while another is timed
            each: dict[str, list[float]] = {name: [] for name in sides}
            for name in [*order, *order[::-1]] * 2:
                each[name] += sides[name].take_each(SINGLE_STEPS, settle=SINGLE_SETTLE)
        fast = {name: statistics.quantiles(seconds, n=10)[0] for name, seconds in each.items()}
        for name, seconds in fast.items():
            slower[name].append(100 * math.log(seconds / fast["torchrun"]))
    for name, wanted in (("Ray Train", 1), ("torchrun again", None)):
        median, low, high = median_with_interval(slower[name])
        what = f"{name} over torchrun, {CASES[case].name}, workers: 1, undisturbed steps"
        note = f"median of {starts} starts, each the fastest tenth of {4 * SINGLE_STEPS} single steps"
        yield Result(5, what, median, wanted, "smaller", "%", note, (low, high))


def _ray_beside_training(case: str) -> Result | Skipped:
    """What the other threads do, which is steadier than the clock, and an upper bound.

    What they do while training waits, or on a core to spare, costs it nothing.
    """
    what = f"Ray Train over torchrun, {CASES[case].name}, CPU time"
    if torch.cuda.is_available():
        return Skipped(5, what, "with a GPU the busiest threads are not those that train alone")
    with _running({"torchrun": _side("together", case), "ray": _under_ray(case, WORKERS)}) as sides:
        for side in sides.values():
            side.take(WARM_UP)
        shares = [[100 * s.share_beside(WORKERS, COUNTED_STEPS) for s in sides.values()] for _ in range(6)]
    median, low, high = median_with_interval([ray - plain for plain, ray in shares])
    plain, ray = (statistics.median(side) for side in zip(*shares, strict=True))
    note = f"of the training threads' {ray:.1f} %, under torchrun {plain:.1f} %"
    return Result(5, what, median, 1, "smaller", "%", note, (low, high))


def _side(name: str, case: str) -> list[str]:
    plain = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    count = 1 if name == "one" else WORKERS
    return [*plain, "--nproc-per-node", str(count), "-m", "benchmarks.worker_side", case, name]


def _under_ray(case: str, workers: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.ray_side", case, str(workers)]


@contextmanager
def _running(commands: Mapping[str, list[str]]) -> Iterator[dict[str, Side]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Side(one, keeps_memory=True)) for name, one in commands.items()}


def _rates(seconds: Mapping[str, list[float]], batch: int) -> str:
    return "images/s: " + ", ".join(f"{k} {batch / statistics.median(v):.0f}" for k, v in seconds.items())


if __name__ == "__main__":
    print(table(measure()))
    print(conditions())

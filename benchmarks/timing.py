"""Times of several things measured side by side, so that what else the machine does hits all alike."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Clock = Callable[[], float]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where benchmarks compute."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By the name that the settings have for them."""


def compare(
    things: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warm_up: int = 2,
    clock: Clock | None = None,
) -> dict[str, float]:
    """Median seconds of each thing, measured in turn (A, B, A, B, ...).

    Args:
        things: what to call, by name.
        rounds: measurements of each.
        warm_up: calls of each before measuring.
        clock: default: on one thread without a GPU the process's CPU time, which leaves out the time
            that other processes took; otherwise wall time.
    """
    clock = clock or default_clock()
    for thing in things.values():
        for _ in range(warm_up):
            thing()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            _settle()
            began = clock()
            thing()
            _settle()
            seconds[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the ends of an interval that holds the true one in at least 95 % of cases.

    The ends are two of the values, by the binomial distribution of how many lie below the median, so that
    nothing is assumed of the noise but that rounds are independent. Raises `ValueError` for fewer than six
    values, with which there is no such interval.

    >>> median_with_interval([3, 1, 2, 5, 4, 100])
    (3.5, 1, 100)
    """
    count = len(values)
    outside = 0
    while sum(math.comb(count, below) for below in range(outside + 1)) <= 0.025 * 2**count:
        outside += 1
    if not outside:
        raise ValueError(f"{count} values are too few for an interval of their median: at least 6")
    ordered = sorted(values)
    return statistics.median(values), ordered[outside - 1], ordered[count - outside]


def default_clock() -> Clock:
    """CPU time where one thread does the work, wall time elsewhere."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def conditions() -> str:
    """What a reader must know to judge the numbers."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    clock = "CPU" if default_clock() is time.process_time else "wall"
    return (
        f"{device}; torch {torch.__version__} with {torch.get_num_threads()} thread(s), {clock} time; "
        f"load average {os.getloadavg()[0]:.1f}"
    )


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

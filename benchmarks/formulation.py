"""Target 2: images/s of a step against the straightforward formulation, on one thread.

Every side is a process of its own; they make steps in turns, on one core. The straightforward step is
measured twice: in a process as Python starts it, against which the targets are, and with the allocator of
this project's workers, so that a reader sees how much of the difference that is.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict

import torch

from benchmarks.peers.case import take_turns
from benchmarks.result import Result, table
from benchmarks.timing import conditions
from benchmarks.turns import NoMoreTurns, Side, in_turns
from benchmarks.workload import Workload
from ekd_train.models import resnet, wide_resnet
from ekd_train.settings import Speed

WANTED = {"latent_be": 2.5, "teacher": 1.6}
PRECISIONS = ("float32", "bfloat16")
STRAIGHTFORWARD, WITH_OUR_ALLOCATOR = "straightforward", "straightforward, our allocator"
SIDES = {STRAIGHTFORWARD: False, WITH_OUR_ALLOCATOR: True, **dict.fromkeys(PRECISIONS, True)}
"""And whether it keeps what it frees."""
CASES = [
    Workload(architecture=architecture, image_size=size, method=method)
    for method in ("latent_be", "teacher")
    for architecture in ("WRN-16-1", "ResNet-8")
    for size in (28, 32)
]
WARM_UP = 2


def measure(cases: Sequence[Workload] = CASES, rounds: int = 5) -> list[Result]:
    """Times as many images/s as the straightforward step, in both precisions."""
    results = []
    for case in cases:
        seconds = _seconds(case, rounds)
        for precision in PRECISIONS:
            ratio, same_allocator = (
                statistics.median(t / o for t, o in zip(seconds[name], seconds[precision], strict=True))
                for name in (STRAIGHTFORWARD, WITH_OUR_ALLOCATOR)
            )
            rate = case.batch_size / statistics.median(seconds[precision])
            note = f"{rate:.0f} images/s; {same_allocator:.2f} x with one allocator for both"
            results.append(Result(2, f"{case.name}, {precision}", ratio, WANTED[case.method], note=note))
    return results


def _seconds(case: Workload, rounds: int) -> dict[str, list[float]]:
    described = {name: value for name, value in asdict(case).items() if name != "speed"}
    command = [sys.executable, "-m", "benchmarks.formulation", json.dumps(described)]
    steps = 2 if case.method == "latent_be" else 10
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side([*command, name], keeps_memory=keeps))
            for name, keeps in SIDES.items()
        }
        return in_turns(sides, steps=steps, rounds=rounds, warm_up=WARM_UP)


def _side(described: str, name: str) -> None:
    turns, _ = take_turns(str(min(os.sched_getaffinity(0))))
    case = Workload(**json.loads(described))
    if name in PRECISIONS:
        step = case.changed(speed=Speed.model_validate({"precision": name})).step()
    else:
        _pool_as_papers_do()
        step = case.straightforward_step()
    with contextlib.suppress(NoMoreTurns):
        while True:
            turns()
            step()


def _pool_as_papers_do() -> None:
    """The networks are this project's; in the straightforward step their pooling is a mean and a slice."""
    resnet.every_nth_pixel = lambda x, n: x[:, :, ::n, ::n]
    resnet.global_average = wide_resnet.global_average = lambda x: x.mean(dim=(2, 3))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _side(*sys.argv[1:])
    else:
        torch.set_num_threads(1)
        print(table(measure()))
        print(conditions())

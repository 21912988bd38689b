"""Target 2: images/s of a step against the straightforward formulation, on one thread."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.workload import Workload
from ekd_train.settings import Speed

WANTED = {"latent_be": 2.5, "teacher": 1.6}
FAST = Speed(precision="bfloat16")
CASES = [
    Workload(architecture=architecture, image_size=size, method=method)
    for method in ("latent_be", "teacher")
    for architecture in ("WRN-16-1", "ResNet-8")
    for size in (28, 32)
]


def measure(cases: Sequence[Workload] = CASES, rounds: int = 5) -> list[Result]:
    """Times as many images/s as the straightforward step: by default, and in bfloat16."""
    results = []
    for case in cases:
        seconds = compare(
            {
                "straightforward": case.straightforward_step(),
                "float32": case.step(),
                "bfloat16": case.changed(speed=FAST).step(),
            },
            rounds=rounds,
        )
        for precision in ("float32", "bfloat16"):
            ratio = seconds["straightforward"] / seconds[precision]
            note = f"{case.batch_size / seconds[precision]:.0f} images/s"
            results.append(Result(2, f"{case.name}, {precision}", ratio, WANTED[case.method], note=note))
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(measure()))
    print(conditions())

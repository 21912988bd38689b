"""`make bench`: every benchmark in turn, each a table of target, measured ratio and whether it is met."""

from __future__ import annotations

import sys

import torch

from benchmarks import (
    between_steps,
    between_workers,
    formulation,
    growth,
    limit,
    passes,
    photographs_loaded,
    search,
    start_up,
)
from benchmarks.peers import comparison
from benchmarks.result import table
from benchmarks.timing import conditions
from benchmarks.turns import set_up_as_a_worker

BENCHMARKS = {
    "Passes of a training step": passes.measure,
    "Against the straightforward formulation": formulation.measure,
    "Against peers": comparison.measure,
    "Against the machine's limit": limit.measure,
    "Between the steps": between_steps.measure,
    "Between workers": between_workers.measure,
    "Start-up": start_up.measure,
    "Growth with members and batch": growth.measure,
    "Photographs": photographs_loaded.measure,
    "A search beside its training": search.measure,
}


def main() -> None:
    """Run them all on one thread, printing each table as soon as it is known; status 1 if one failed."""
    torch.set_num_threads(1)
    failed = []
    for title, measure in BENCHMARKS.items():
        print(f"\n## {title}\n", flush=True)
        try:
            print(table(measure()), flush=True)
        except Exception as error:  # the others do not depend on it
            failed.append(title)
            print(f"failed: {type(error).__name__}: {error}", flush=True)
    print(f"\n{conditions()}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    set_up_as_a_worker()
    main()

"""`ekd clean`: remove what finished runs no longer need."""

import argparse

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.stored_runs import named_storage, run_storage
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import SHARED_NETWORKS
from orchestrator.pipeline.cleanup import clean_run, finished_runs, remove_run
from orchestrator.pipeline.networks import remove_unused
from orchestrator.pipeline.plain_console import PlainConsole


def run(arguments: argparse.Namespace) -> int:
    """Remove it, and print how much that was; the exit status."""
    if arguments.everything and arguments.run_id is None:
        raise ExperimentError("--everything removes one run: name it")
    storage = named_storage(arguments)
    with nothing_started():
        run_ids = finished_runs(storage) if arguments.run_id is None else [arguments.run_id]
    if not run_ids:
        print(f"no finished runs in {storage.uri()}; `ekd status` lists all runs")
    for run_id in run_ids:
        stored = run_storage(storage, run_id)
        with nothing_started():
            if arguments.everything:
                remove_run(storage, stored, run_id, PlainConsole(stderr=True).say)
                done = "removed"
            else:
                done = f"{clean_run(stored, run_id)} objects removed"
        print(f"{stored.uri()}: {done}")
    with nothing_started():
        unused = remove_unused(storage)
    if unused:
        print(f"{storage.uri(SHARED_NETWORKS)}: {unused} networks removed that no run refers to")
    return 0

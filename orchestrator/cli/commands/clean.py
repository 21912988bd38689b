"""`ekd clean`: remove what finished runs no longer need."""

import argparse

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.stored_runs import named_storage, run_storage
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import SHARED_NETWORKS, SHARED_PACKS
from orchestrator.pipeline.cleanup import clean_run, finished_runs, remove_packs, remove_run
from orchestrator.pipeline.networks import remove_unused
from orchestrator.pipeline.plain_console import PlainConsole


def run(arguments: argparse.Namespace) -> int:
    """Remove it, or say what would be, and print how much that is; the exit status."""
    dry = arguments.dry_run
    gone = "would be removed" if dry else "removed"
    if arguments.everything and arguments.run_id is None:
        raise ExperimentError("--everything removes one run: name it")
    storage, console = named_storage(arguments), results_console()
    with nothing_started():
        run_ids = finished_runs(storage) if arguments.run_id is None else [arguments.run_id]
    if not run_ids:
        console.say(f"no finished runs in {storage.uri()}; `ekd status` lists all runs")
    for run_id in run_ids:
        stored = run_storage(storage, run_id)
        with nothing_started():
            if not arguments.everything:
                count = clean_run(stored, run_id, dry=dry)
            else:
                say = PlainConsole(stderr=True).say
                count = remove_run(storage, stored, run_id, say, dry=dry)
        console.say(f"{stored.uri()}: {count} objects {gone}")
    with nothing_started():
        gone_too = arguments.run_id if arguments.everything else ""
        unused = remove_unused(storage, dry_without=gone_too if dry else None)
        packs = remove_packs(storage, dry=dry)
    if unused:
        console.say(f"{storage.uri(SHARED_NETWORKS)}: {unused} networks {gone} that no run refers to")
    if packs:
        console.say(f"{storage.uri(SHARED_PACKS)}: {packs} packs of images {gone}; runs make them again")
    return 0

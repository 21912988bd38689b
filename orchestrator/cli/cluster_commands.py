"""`ekd submit`, `ekd register` and `ekd clean`: runs elsewhere, runs to finish later, runs to tidy up."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import apply_overrides, build_experiment


def submit(arguments: argparse.Namespace) -> int:
    """`ekd submit`: the main job on a cluster, through Ray's job API."""
    from orchestrator.runtime.jobs_api import submit_command

    return submit_command(arguments)


def register(arguments: argparse.Namespace) -> int:
    """`ekd register`: the stages after the evaluation, of a run whose tracking server was away."""
    from orchestrator.cli import commands
    from orchestrator.pipeline.cleanup import stored_experiment

    with commands.storage_errors():
        storage = commands.named_storage(arguments.storage, arguments.endpoint_url)
        tree = stored_experiment(commands.run_storage(storage, arguments.run_id), arguments.run_id)
    tree["storage"] |= {"uri": arguments.storage, "endpoint_url": arguments.endpoint_url}
    apply_overrides(tree, arguments.overrides)
    checked = commands.check_experiment(build_experiment(tree), arguments.run_id, smoke=False)
    return commands.run_checked(checked)


def clean(arguments: argparse.Namespace) -> int:
    """`ekd clean`: remove what finished runs no longer need."""
    from orchestrator.cli import commands
    from orchestrator.pipeline.cleanup import clean_run, finished_runs, remove_run

    if arguments.everything and arguments.run_id is None:
        raise ExperimentError("--everything removes one run: name it")
    with commands.storage_errors():
        storage = commands.named_storage(arguments.storage, arguments.endpoint_url)
        run_ids = finished_runs(storage) if arguments.run_id is None else [arguments.run_id]
        if not run_ids:
            print(f"no finished runs in {storage.uri()}; `ekd status` lists all runs")
        for run_id in run_ids:
            run = commands.run_storage(storage, run_id)
            if arguments.everything:
                remove_run(storage, run, run_id, partial(print, file=sys.stderr))
                print(f"{run.uri()}: removed")
            else:
                print(f"{run.uri()}: {clean_run(run, run_id)} objects removed")
    return 0

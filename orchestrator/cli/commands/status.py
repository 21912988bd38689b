"""`ekd status`: all runs, or one."""

import argparse

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.stored_runs import named_storage, run_storage
from orchestrator.cli.terminal import results_console
from orchestrator.pipeline.status import all_runs, one_run


def run(arguments: argparse.Namespace) -> int:
    """Print where the runs of a storage stand, or one of them; the exit status."""
    storage = named_storage(arguments)
    with nothing_started():
        shown = (
            all_runs(storage)
            if arguments.run_id is None
            else one_run(run_storage(storage, arguments.run_id), arguments.run_id)
        )
    results_console().print(shown, soft_wrap=arguments.run_id is not None)
    return 0

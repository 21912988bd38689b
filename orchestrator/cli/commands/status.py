"""`ekd status`: all runs and the newest, or one."""

import argparse
from contextlib import suppress

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.stored_runs import named_storage, run_storage
from orchestrator.cli.terminal import results_console
from orchestrator.errors import EkdError
from orchestrator.pipeline.status import SPARE, all_runs, one_run, stored_runs


def run(arguments: argparse.Namespace) -> int:
    """Print where the runs of a storage stand and all of the newest, or one of them; the exit status."""
    storage, run_id, console = named_storage(arguments), arguments.run_id, results_console()
    if run_id is None:
        with nothing_started():
            runs = stored_runs(storage)
            listed = all_runs(storage)
        if not runs:
            console.say(f"no runs in {storage.uri()}; --storage names another place")
            return 0
        console.show(listed, SPARE)
        console.print()
        with suppress(EkdError):  # its row says that it cannot be read
            console.say(one_run(run_storage(storage, runs[0]), runs[0]))
        return 0
    with nothing_started():
        text = one_run(run_storage(storage, run_id), run_id)
    console.say(text)
    return 0

"""Runs that are in a storage already, as commands name them."""

import argparse

from orchestrator.cli.checks import nothing_started
from orchestrator.errors import ExperimentError
from orchestrator.pipeline.manifest import MANIFEST
from orchestrator.planning.preflight import PATIENCE_S, check_run_id
from orchestrator.storage import Storage, open_storage


def named_storage(arguments: argparse.Namespace) -> Storage:
    """The storage that `--storage` and `--endpoint-url` name; raises `ExperimentError`."""
    with nothing_started():
        return open_storage(arguments.storage, arguments.endpoint_url, patience_s=PATIENCE_S)


def run_storage(storage: Storage, run_id: str) -> Storage:
    """The storage of a run that exists; raises `ExperimentError`."""
    run = storage.child(check_run_id(run_id))
    with nothing_started():
        exists = run.exists(MANIFEST)
    if not exists:
        raise ExperimentError(
            f"{run.uri()}: there is no such run; `ekd status` lists those of a place, which --storage names"
        )
    return run

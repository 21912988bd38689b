"""`ekd report`: the results of a run, as a table here and as a page."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli_options import add_storage

if TYPE_CHECKING:
    from orchestrator.report import Evidence


def add_report_command(commands: Any) -> None:
    """The parser of `ekd report`."""
    parser = commands.add_parser(
        "report",
        help="the results of a run, here and as a page",
        description="Prints the table of results and writes the HTML report anew, beside the run and, where "
        "MLflow answers, among its artifacts; the last line on stdout is where it is.",
    )
    parser.add_argument("run_id", metavar="RUN_ID", help="as `ekd status` lists it")
    add_storage(parser)


def report(arguments: argparse.Namespace) -> int:
    """`ekd report`; the exit status."""
    from orchestrator import commands

    with commands.storage_errors():
        storage = commands.run_storage(
            commands.named_storage(arguments.storage, arguments.endpoint_url), arguments.run_id
        )
    from orchestrator.manifest import REPORT
    from orchestrator.report import load_evidence, render
    from orchestrator.summary import table, verdict
    from orchestrator.terminal import results_console

    with commands.storage_errors():
        evidence = load_evidence(storage)
        page = render(evidence)
        storage.write(REPORT, page.encode())
    console = results_console()
    console.print(table(evidence.predictors))
    console.print()
    console.print(verdict(evidence.predictors), soft_wrap=True)
    if model := evidence.summary.get("registered_model"):
        console.print(f"Registered: models:/{model['name']}/{model['version']}", soft_wrap=True)
    _refresh(evidence, page, arguments.storage, arguments.endpoint_url)  # imports MLflow: seconds
    console.print(storage.uri(REPORT), soft_wrap=True)
    return 0


def _refresh(evidence: Evidence, page: str, storage_uri: str, endpoint_url: str | None) -> None:
    """The same page among the artifacts of the run's MLflow parent run; a warning where that cannot be."""
    from orchestrator.environment import in_the_environment
    from orchestrator.manifest import REPORT
    from orchestrator.storage.vendor_settings import environment
    from orchestrator.tracking import TrackingError, check_tracking, redacted, resolve_tracking_uri
    from orchestrator.tracking.address import sqlite_file
    from orchestrator.tracking.connection import connect, explained, patient

    uri = resolve_tracking_uri(evidence.experiment["tracking"]["uri"], storage_uri)
    file, parent = sqlite_file(uri), evidence.manifest["mlflow"].get("parent")
    try:
        if parent is None or (file is not None and not file.is_file()):
            raise TrackingError(f"{redacted(uri)} does not have this run")
        check_tracking(uri)
        client = connect(uri)
        with in_the_environment(environment(endpoint_url)), patient(uri), explained(uri, "write to"):
            client.log_text(parent, page, REPORT)
    except TrackingError as error:
        print(f"WARNING: the report in MLflow is as it was: {error}", file=sys.stderr)

"""`ekd report`: the results of a run, as a table here and as a page."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import add_storage

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from orchestrator.report import Evidence, Standing


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
    from orchestrator.cli import commands

    with commands.storage_errors():
        storage = commands.run_storage(
            commands.named_storage(arguments.storage, arguments.endpoint_url), arguments.run_id
        )
    from orchestrator.cli.terminal import results_console
    from orchestrator.pipeline.manifest import REPORT
    from orchestrator.pipeline.summary import table, verdict
    from orchestrator.report import load_evidence, render
    from orchestrator.tracking import TrackingError, redacted, resolve_tracking_uri

    with commands.storage_errors():
        evidence = load_evidence(storage)
    console = results_console()
    console.print(table(evidence.predictors))
    console.print()
    console.print(verdict(evidence.predictors), soft_wrap=True)
    if model := evidence.summary.get("registered_model"):
        console.print(f"Registered: models:/{model['name']}/{model['version']}", soft_wrap=True)
    uri = resolve_tracking_uri(evidence.experiment["tracking"]["uri"], arguments.storage)
    client, standing = None, None
    try:
        client = _connected(evidence, uri)  # imports MLflow: seconds
        standing = _standing(client, evidence, uri)
    except TrackingError as error:
        client = None
        print(f"WARNING: the report in MLflow is as it was: {error}", file=sys.stderr)
    page = render(evidence, tracking_uri=redacted(uri), standing=standing)
    with commands.storage_errors():
        storage.write(REPORT, page.encode())
    if client is not None:
        _refresh(client, evidence, page, uri, arguments.endpoint_url)
    console.print(storage.uri(REPORT), soft_wrap=True)
    return 0


def _connected(evidence: Evidence, uri: str) -> MlflowClient:
    """A client of the store that has the run; raises `TrackingError` where none has it or answers."""
    from orchestrator.tracking import TrackingError, check_tracking, redacted
    from orchestrator.tracking.address import sqlite_file
    from orchestrator.tracking.connection import connect

    file = sqlite_file(uri)
    if evidence.manifest["mlflow"].get("parent") is None or (file is not None and not file.is_file()):
        raise TrackingError(f"{redacted(uri)} does not have this run")
    check_tracking(uri)
    return connect(uri)


def _standing(client: MlflowClient, evidence: Evidence, uri: str) -> Standing | None:
    """What the registry says of the run's version today; None if it was not registered."""
    from datetime import UTC, datetime

    from orchestrator.registry.champion import PROMOTION_TAG, NoSuchVersion, version_of
    from orchestrator.report import Standing
    from orchestrator.tracking.connection import explained, patient

    model = evidence.summary.get("registered_model")
    if model is None:
        return None
    day = datetime.now(UTC).date().isoformat()
    try:
        with patient(uri), explained(uri, "read from"):
            version = version_of(client, model["name"], str(model["version"]))
    except NoSuchVersion:
        return Standing((), "not in the registry any more", day)
    return Standing(sorted(version.aliases), version.tags.get(PROMOTION_TAG, "no reason noted"), day)


def _refresh(client: MlflowClient, evidence: Evidence, page: str, uri: str, endpoint_url: str | None) -> None:
    """The same page among the artifacts of the run's MLflow parent run; a warning where that cannot be."""
    from orchestrator.pipeline.manifest import REPORT
    from orchestrator.runtime.environment import in_the_environment
    from orchestrator.storage.vendor_settings import environment
    from orchestrator.tracking import TrackingError
    from orchestrator.tracking.connection import explained, patient

    try:
        with in_the_environment(environment(endpoint_url)), patient(uri), explained(uri, "write to"):
            client.log_text(evidence.manifest["mlflow"]["parent"], page, REPORT)
    except TrackingError as error:
        print(f"WARNING: the report in MLflow is as it was: {error}", file=sys.stderr)

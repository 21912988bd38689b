"""`ekd report`: the results of a run, as a table here and as a page."""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.stored_runs import own_tracking, run_or_newest
from orchestrator.cli.terminal import results_console
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.manifest import REPORT
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.pipeline.summary import SPARE, legend, table, verdict
from orchestrator.registry.champion import PROMOTION_TAG, NoSuchVersion, version_of
from orchestrator.report import Evidence, RegistryStatus, load_evidence, render
from orchestrator.runtime.environment import in_the_environment
from orchestrator.storage.vendor_settings import environment
from orchestrator.tracking import TrackingError, check_tracking, redacted, resolve_tracking_uri
from orchestrator.tracking.address import sqlite_file
from orchestrator.tracking.connection import connect, explained, upload
from orchestrator.tuning.table import outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(arguments: argparse.Namespace) -> int:
    """Print the table of results, and write the page anew; the exit status.

    Raises `LeaseHeld`, after the table, while another process runs the run: the page is that one's.
    """
    storage = run_or_newest(arguments)
    with nothing_started():
        evidence = load_evidence(storage)
    console = results_console()
    console.show(table(evidence.predictors), SPARE)
    console.say(legend(evidence.predictors), "dim")
    console.print()
    console.say(verdict(evidence.predictors, evidence.summary.to_control))
    for sentence in outcome(evidence.manifest):
        console.say(sentence)
    if model := evidence.summary.registered_model:
        console.say(f"Registered: models:/{model.name}/{model.version}")
    uri, client, registry_status = None, None, None
    try:
        own = own_tracking(evidence.experiment["tracking"]["uri"], arguments)
        uri = resolve_tracking_uri(own, arguments.storage)
        client = _connected(evidence, uri)
        registry_status = _standing(client, evidence, uri)
    except (ExperimentError, TrackingError) as error:
        client = None
        _warn(error)
    page = render(evidence, tracking_uri=uri and redacted(uri), registry_status=registry_status)
    with Lease(storage).acquire(PlainConsole(stderr=True).say) as lease:
        with nothing_started():
            lease.fenced.write(REPORT, page.encode())
        if client is not None and uri is not None:
            lease.confirm()
            _refresh(client, evidence, page, uri, arguments)
    console.say(storage.uri(REPORT))
    return 0


def _warn(error: EkdError) -> None:
    PlainConsole(stderr=True).say(f"WARNING: the report in MLflow is as it was: {error}")


def _connected(evidence: Evidence, uri: str) -> "MlflowClient":
    """A client of the store that has the run; raises `TrackingError` where none has it or answers."""
    file = sqlite_file(uri)
    if evidence.manifest.mlflow.get("parent") is None or (file is not None and not file.is_file()):
        raise TrackingError(f"{redacted(uri)} does not have this run")
    check_tracking(uri)
    return connect(uri)


def _standing(client: "MlflowClient", evidence: Evidence, uri: str) -> RegistryStatus | None:
    """What the registry says of the run's version today; None if it was not registered."""
    model = evidence.summary.registered_model
    if model is None:
        return None
    day = datetime.now(UTC).date().isoformat()
    try:
        with explained(uri, "read from"):
            version = version_of(client, model.name, model.version)
    except NoSuchVersion:
        return RegistryStatus((), "not in the registry any more", day)
    return RegistryStatus(sorted(version.aliases), version.tags.get(PROMOTION_TAG, "no reason noted"), day)


def _refresh(
    client: "MlflowClient", evidence: Evidence, page: str, uri: str, arguments: argparse.Namespace
) -> None:
    """The same page among the artifacts of the run's MLflow parent run; a warning where that cannot be."""
    try:
        with (
            in_the_environment(environment(arguments.endpoint_url)),
            explained(uri, "write to"),
        ):
            parent = evidence.manifest.mlflow["parent"]
            location = client.get_run(parent).info.artifact_uri
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, REPORT).write_text(page, encoding="utf-8")
                upload(
                    uri, location, folder, lambda path: client.log_artifacts(parent, path), arguments.storage
                )
    except TrackingError as error:
        _warn(error)

"""`ekd evaluate`: a finished run under corruption, on foreign images, and where it should not answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import add_overrides, add_storage

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.robustness.evaluation import FinishedRun


def add_evaluate_command(commands: Any) -> None:
    """The parser of `ekd evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="a finished run under corruption, on foreign images, and when it should not answer",
        description="Corrupts the test images in the common ways, at severities 1 to 5; compares the "
        "predictors' doubt on images of another data set; and measures the error among the images they are "
        "sure of. A report on a finished run: nothing is selected by it. The same settings again: not done "
        "again. The last line on stdout is where the results are.",
    )
    parser.add_argument("run_id", metavar="RUN_ID", help="as `ekd status` lists it")
    add_overrides(
        parser,
        "a key of `ekd_train/robustness/settings.py`, as images=1000 or severities=[1,3,5]; repeats",
    )
    add_storage(parser)


def evaluate(arguments: argparse.Namespace) -> int:
    """`ekd evaluate`; the exit status."""
    from rich.console import Console

    from orchestrator.cli import commands
    from orchestrator.cli.terminal import results_console
    from orchestrator.pipeline.lease import Lease, LeaseHeld
    from orchestrator.pipeline.manifest import EVALUATION
    from orchestrator.pipeline.progress_bar import ProgressBar
    from orchestrator.planning.preflight import one_line
    from orchestrator.robustness.evaluation import EvaluationFailed, evaluate_run, finished_run, read_settings
    from orchestrator.storage import StorageError

    settings = read_settings(arguments.overrides)
    errors = Console(stderr=True)

    def say(text: str) -> None:
        errors.print(text, highlight=False, soft_wrap=True, markup=False)

    with commands.storage_errors():
        root = commands.named_storage(arguments.storage, arguments.endpoint_url)
        storage = commands.run_storage(root, arguments.run_id)
        finished_run(storage)
        lease = Lease(storage)
        try:
            lease.acquire(say)
        except LeaseHeld as error:
            print(f"ekd: {error}", file=sys.stderr)
            return 1
    from ekd_train.persistence.checkpoint import DamagedCheckpoint
    from orchestrator.pipeline.manifest import REPORT
    from orchestrator.report import load_evidence, render
    from orchestrator.tracking import redacted, resolve_tracking_uri

    meter = ProgressBar("corrupted images", errors)
    try:
        with lease:
            run = finished_run(storage)
            try:
                found = evaluate_run(run, settings, say, meter)
            finally:
                meter.close()
            uri = resolve_tracking_uri(run.experiment.tracking.uri, arguments.storage)
            page = render(load_evidence(storage), tracking_uri=redacted(uri))
            storage.write(REPORT, page.encode())
            record(run, found, page, arguments.storage, say)
    except KeyboardInterrupt:
        print(
            "ekd: interrupted; nothing of this evaluation is kept, and the run is as it was", file=sys.stderr
        )
        return 1
    except (EvaluationFailed, DamagedCheckpoint, StorageError) as error:
        print(f"ekd: {one_line(error)}", file=sys.stderr)
        return 1
    console = results_console()
    console.print(results_table(found))
    console.print()
    console.print(severity_table(found, run.manifest["stages"]["evaluate"]["outputs"]["predictors"]))
    console.print()
    console.print(f"Report: {storage.uri(REPORT)}", soft_wrap=True)
    console.print(storage.uri(EVALUATION), soft_wrap=True)
    return 0


def record(run: FinishedRun, found: Mapping[str, Any], page: str, storage_uri: str, say: Any) -> None:
    """Metrics and artifacts of the run's MLflow parent run; a warning where the store cannot be reached."""
    from orchestrator.pipeline.manifest import EVALUATION, REPORT, STATES
    from orchestrator.tracking import Tracker, TrackingError, redacted, resolve_tracking_uri
    from orchestrator.tracking.address import sqlite_file

    uri = resolve_tracking_uri(run.experiment.tracking.uri, storage_uri)
    file, parent = sqlite_file(uri), run.manifest["mlflow"].get("parent")
    if parent is None or (file is not None and not file.exists()):
        say(f"WARNING: not recorded in MLflow: {redacted(uri)} does not have this run")
        return
    run_id = run.manifest["run_id"]
    local = run.storage.local_folder or Path("ekd-runs").absolute() / run_id
    try:
        tracker = Tracker.open(
            uri,
            run.experiment.name,
            run_id,
            ekd_run_id=run_id,
            instance=str(run.manifest["created"]),
            spool=local / "tracking",
            run_id=parent,
            storage_uri=storage_uri,
        )
    except TrackingError as error:
        say(f"WARNING: not recorded in MLflow: {error}; the same command records it later")
        return
    tracker.log_metrics(tracker.run_id, flat_metrics(found), step=found["number"] - 1)
    tracker.log_dict(tracker.run_id, EVALUATION, found)
    tracker.log_artifact_text(tracker.run_id, REPORT, page)
    # Recording an evaluation does not change how the run ended.
    ended = run.manifest.get("status")
    if left := tracker.close(next((status for status, state in STATES.items() if state == ended), "FAILED")):
        say(f"WARNING: {left}")


def flat_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """What of an evaluation goes to MLflow as metrics, by name; the rest is in the artifact.

    `corruption/<predictor>/mce`, and `accuracy`, `nll`, `ece`, `cnll`, `cece`, `brier` over all corruptions;
    `out_of_distribution/<predictor>/<score>/auroc` and `fpr_at_95`; `risk_coverage/<predictor>/aurc`.
    """
    from ekd_train.robustness.ood_detection import MERITS

    flat: dict[str, float] = {}
    for name, values in found["corruption"]["predictors"].items():
        flat |= {f"corruption/{name}/{metric}": value for metric, value in values["mean"].items()}
        if "mce" in values:
            flat[f"corruption/{name}/mce"] = values["mce"]
    for name, scores in found.get("out_of_distribution", {"predictors": {}})["predictors"].items():
        for score, merits in scores.items():
            flat |= {f"out_of_distribution/{name}/{score}/{m}": merits[m] for m in MERITS}
    for name, values in found["risk_coverage"]["predictors"].items():
        flat |= {f"risk_coverage/{name}/{key}": values[key] for key in ("aurc", "excess_aurc")}
    return flat


HEADINGS = {
    "corruption/{}/accuracy": ("corrupted acc. %", 100, 2),
    "corruption/{}/nll": ("NLL", 1, 3),
    "corruption/{}/ece": ("ECE", 1, 3),
    "corruption/{}/mce": ("mCE", 1, 3),
    "out_of_distribution/{}/max_probability/auroc": ("AUROC max p", 1, 3),
    "out_of_distribution/{}/entropy/auroc": ("entropy", 1, 3),
    "out_of_distribution/{}/disagreement/auroc": ("disagr.", 1, 3),
    "out_of_distribution/{}/max_probability/fpr_at_95": ("FPR@95", 1, 3),
    "risk_coverage/{}/aurc": ("AURC", 1, 4),
}
"""Metric of `flat_metrics` -> heading, factor, digits."""


def results_table(found: Mapping[str, Any]) -> Table:
    """One line for each predictor; what was not measured is blank."""
    flat = flat_metrics(found)
    columns = {
        key: what for key, what in HEADINGS.items() if any(key.format(n) in flat for n in _names(found))
    }
    lines = []
    for name in _names(found):
        cells = [
            f"{scale * flat[key.format(name)]:.{digits}f}" if key.format(name) in flat else ""
            for key, (_, scale, digits) in columns.items()
        ]
        lines.append([name, *cells])
    return _table(["predictor", *(heading for heading, _, _ in columns.values())], lines)


def severity_table(found: Mapping[str, Any], clean: Mapping[str, Any]) -> Table:
    """Accuracy in percent, clean and at each severity, averaged over the corruptions."""
    corrupted = found["corruption"]["predictors"]
    severities = list(corrupted["averaged"]["severities"])
    lines = [
        [
            name,
            f"{100 * clean[name]['test']['accuracy']:.2f}",
            *(f"{100 * corrupted[name]['severities'][s]['accuracy']:.2f}" for s in severities),
        ]
        for name in _names(found)
    ]
    return _table(["acc. % at severity", "clean", *severities], lines)


def _names(found: Mapping[str, Any]) -> list[str]:
    from orchestrator.pipeline.summary import order

    return order(found["corruption"]["predictors"])


def _table(headings: list[str], lines: list[list[str]]) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="left" if index == 0 else "right")
    for line in lines:
        made.add_row(*line, style="bold" if line[0] == "averaged" else None)
    return made

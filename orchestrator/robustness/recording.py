"""What an evaluation tells MLflow: metrics and artifacts of the run's parent run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ekd_train.robustness.ood_detection import MERITS
from orchestrator.pipeline.manifest import EVALUATION, REPORT, STATES
from orchestrator.robustness.evaluation import FinishedRun
from orchestrator.tracking import Tracker, TrackingError, redacted, resolve_tracking_uri
from orchestrator.tracking.address import sqlite_file


def record(
    run: FinishedRun, found: Mapping[str, Any], page: str, storage_uri: str, say: Callable[[str], None]
) -> None:
    """Metrics and artifacts of the run's MLflow parent run; a warning where the store cannot be reached."""
    uri = resolve_tracking_uri(run.experiment.tracking.uri, storage_uri)
    file, parent = sqlite_file(uri), run.manifest.mlflow.get("parent")
    if parent is None or (file is not None and not file.exists()):
        say(f"WARNING: not recorded in MLflow: {redacted(uri)} does not have this run")
        return
    run_id = run.manifest.run_id
    local = run.storage.local_folder or Path("ekd-runs").absolute() / run_id
    try:
        tracker = Tracker.open(
            uri,
            run.experiment.name,
            run_id,
            ekd_run_id=run_id,
            instance=str(run.manifest.created),
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
    ended = run.manifest.status
    if left := tracker.close(next((status for status, state in STATES.items() if state == ended), "FAILED")):
        say(f"WARNING: {left}")


def flat_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """What of an evaluation goes to MLflow as metrics, by name; the rest is in the artifact.

    `corruption/<predictor>/mce`, and `accuracy`, `nll`, `ece`, `cnll`, `cece`, `brier` over all corruptions;
    `out_of_distribution/<predictor>/<score>/auroc` and `fpr_at_95`; `risk_coverage/<predictor>/aurc`.
    """
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

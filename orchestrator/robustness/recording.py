"""An evaluation in MLflow: metrics and artifacts of the run's parent run."""

from collections.abc import Callable

from orchestrator.pipeline.manifest import STATES
from orchestrator.pipeline.projection import project
from orchestrator.robustness.evaluation import FinishedRun
from orchestrator.tracking import Tracker, TrackingError, check_tracking, redacted
from orchestrator.tracking.address import sqlite_file


def record(
    run: FinishedRun, uri: str, say: Callable[[str], None], confirm: Callable[[], None] = lambda: None
) -> None:
    """Write what is stored of the run to the MLflow at `uri`; a warning where it cannot be reached.

    `confirm` as `Tracker.open`.
    """
    file, parent = sqlite_file(uri), run.manifest.mlflow.get("parent")
    if parent is None or (file is not None and not file.exists()):
        say(f"WARNING: not recorded in MLflow: {redacted(uri)} does not have this run")
        return
    instance = str(run.manifest.created)
    try:
        check_tracking(uri)
        tracker = Tracker.open(
            uri,
            run.experiment.name,
            run.manifest.run_id,
            instance=instance,
            storage_uri=run.experiment.storage.uri,
            confirm=confirm,
        )
    except TrackingError as error:
        say(f"WARNING: not recorded in MLflow: {error}; the same command records it later")
        return
    tracker.show(project(run.storage, run.experiment))
    # Recording an evaluation does not change how the run ended.
    ended = run.manifest.status
    if not tracker.close(next((status for status, state in STATES.items() if state == ended), "FAILED")):
        say("WARNING: MLflow lacks some of it; the same command records it later")

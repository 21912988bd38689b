"""Write the summary and the report, beside the run and in MLflow."""

from __future__ import annotations

import json

from ekd_train.persistence.networks import load_network_record
from orchestrator.pipeline.manifest import REPORT, SUMMARY
from orchestrator.pipeline.manifest_content import Reported
from orchestrator.pipeline.order import training_runs
from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.prepare import describe
from orchestrator.pipeline.summary import summarise
from orchestrator.report import load_evidence, render
from orchestrator.tracking import redacted


def report(context: RunContext) -> Reported:
    """`summary.json` and `report.html` in storage and as artifacts; results as metrics of the parent run."""
    manifest, tracker, storage = context.manifest, context.tracker, context.checked.storage
    summary = summarise(manifest.content)
    storage.write(SUMMARY, json.dumps(summary.to_json(), indent=2).encode())
    tracker.log_dict(tracker.run_id, SUMMARY, summary.to_json())
    _tell_again(context)
    page = render(load_evidence(storage), tracking_uri=redacted(tracker.uri))
    storage.write(REPORT, page.encode())
    tracker.log_artifact_text(tracker.run_id, REPORT, page)
    metrics = {
        f"{split}/{name}/{metric}": value
        for name, values in summary.predictors.items()
        for split, measured in (("validation", values.validation), ("test", values.test))
        for metric, value in measured.items()
    }
    tracker.log_metrics(tracker.run_id, metrics, 0)
    return Reported(summary=storage.uri(SUMMARY), report=storage.uri(REPORT))


def _tell_again(context: RunContext) -> None:
    """Tell MLflow all about the training runs from what is stored; what it knows is left out.

    A driver that was killed while the tracking server was away took its unsent records with it.
    """
    tracker = context.tracker
    describe(context)
    for run in training_runs(context.checked.experiment):
        child = context.mlflow_run(run.name)
        for record in load_network_record(context.checked.storage, run.name).history:
            values = {key: value for key, value in record.items() if key != "epoch"}
            tracker.log_metrics(child, values, int(record["epoch"]))
        tracker.finish(child, "FINISHED")

"""Write the summary, the curves and the tables, beside the run and in MLflow."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.context import Context
from orchestrator.curves import training_curves
from orchestrator.manifest import SUMMARY
from orchestrator.summary import markdown, summarise, verdict


def report(context: Context) -> dict[str, Any]:
    """`summary.json` in storage and as an artifact; results as metrics of the parent run."""
    manifest, tracker, storage = context.manifest, context.tracker, context.checked.storage
    experiment = context.checked.experiment
    summary = summarise(manifest.content)
    predictors = summary["predictors"]
    storage.write(SUMMARY, json.dumps(summary, indent=2).encode())
    tracker.log_dict(tracker.run_id, SUMMARY, summary)
    tracker.log_artifact_text(
        tracker.run_id, "report/predictors.md", f"{verdict(predictors)}\n\n{markdown(predictors)}"
    )
    histories = {
        run.name: json.loads(storage.read(f"networks/{run.name}.json"))["record"]["history"]
        for run in (*experiment.teacher_runs(), experiment.control_run(), experiment.student_run())
    }
    tracker.log_figure(tracker.run_id, "report/curves.png", training_curves(histories))
    metrics = {
        f"{split}/{name}/{metric}": value
        for name, values in predictors.items()
        for split in ("validation", "test")
        for metric, value in values[split].items()
    }
    tracker.log_metrics(tracker.run_id, metrics, 0)
    return {"summary": storage.uri(SUMMARY)}

"""Write the summary and the report, beside the run and in MLflow."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.context import Context
from orchestrator.manifest import SUMMARY
from orchestrator.report import REPORT, load_evidence, render
from orchestrator.summary import summarise


def report(context: Context) -> dict[str, Any]:
    """`summary.json` and `report.html` in storage and as artifacts; results as metrics of the parent run."""
    manifest, tracker, storage = context.manifest, context.tracker, context.checked.storage
    summary = summarise(manifest.content)
    storage.write(SUMMARY, json.dumps(summary, indent=2).encode())
    tracker.log_dict(tracker.run_id, SUMMARY, summary)
    page = render(load_evidence(storage))
    storage.write(REPORT, page.encode())
    tracker.log_artifact_text(tracker.run_id, REPORT, page)
    metrics = {
        f"{split}/{name}/{metric}": value
        for name, values in summary["predictors"].items()
        for split in ("validation", "test")
        for metric, value in values[split].items()
    }
    tracker.log_metrics(tracker.run_id, metrics, 0)
    return {"summary": storage.uri(SUMMARY), "report": storage.uri(REPORT)}

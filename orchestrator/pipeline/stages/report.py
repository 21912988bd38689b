"""Write the summary and the report beside the run."""

import json

from orchestrator.pipeline.manifest import REPORT, SUMMARY
from orchestrator.pipeline.manifest_content import Reported
from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.summary import summarise
from orchestrator.report import load_evidence, render
from orchestrator.tracking import redacted


def report(context: RunContext) -> Reported:
    """`summary.json` and `report.html` in storage; the end of the run makes them artifacts."""
    storage = context.checked.storage
    summary = summarise(context.manifest.content)
    storage.write(SUMMARY, json.dumps(summary.to_json(), indent=2).encode())
    page = render(load_evidence(storage), tracking_uri=redacted(context.checked.tracking_uri))
    storage.write(REPORT, page.encode())
    return Reported(summary=storage.uri(SUMMARY), report=storage.uri(REPORT))

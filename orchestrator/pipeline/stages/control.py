"""Train the control: one plain network of the student's architecture, on labels alone."""

from __future__ import annotations

from typing import Any

from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.teachers import outcome


def control(context: RunContext) -> dict[str, Any]:
    """The student is queued first: it may begin in another worker group while the control trains."""
    experiment = context.checked.experiment
    context.wait(experiment.first_runs())  # of an earlier start: found whole, or trained again
    run = experiment.control_run()
    context.submit([run, experiment.student_run()])
    return outcome(context, [run.name], context.wait([run]))

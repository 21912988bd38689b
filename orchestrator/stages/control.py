"""Train the control: one plain network of the student's architecture, on labels alone."""

from __future__ import annotations

from typing import Any

from orchestrator.context import Context
from orchestrator.stages.teachers import outcome


def control(context: Context) -> dict[str, Any]:
    """The student is queued first: it may begin in another lane while the control trains."""
    experiment = context.checked.experiment
    context.wait(experiment.first_runs())  # of an earlier start: found whole, or trained again
    run = experiment.control_run()
    context.submit([run, experiment.student_run()])
    return outcome(context, [run.name], context.wait([run]))

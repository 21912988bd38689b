"""Distil the teachers into a student with several subnetworks."""

from __future__ import annotations

from typing import Any

from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.teachers import outcome


def distil(context: RunContext) -> dict[str, Any]:
    """Wait for the student's training run."""
    experiment = context.checked.experiment
    context.wait(experiment.first_runs())
    run = experiment.student_run()
    return outcome(context, [run.name], context.wait([run]))

"""`ekd tune` from beginning to end: the main job with a search in its middle.

Everything after the search is the main job's own stage on the best trial's experiment, in the
same run: same storage, same MLflow parent, same teachers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.pipeline import pipeline
from orchestrator.pipeline.manifest import Manifest
from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.prepare import describe
from orchestrator.pipeline.stages.teachers import outcome
from orchestrator.planning.plan import training_work
from orchestrator.planning.preflight import Checked
from orchestrator.tuning.pool import trial_experiment
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.stage import search

AFTER = ("control", "distil", "average", "evaluate", "register", "report")
"""Stages of the main job that follow."""


def run(checked: Checked, request: SearchRequest) -> Manifest:
    """Search, then train, average and register the best; errors as `orchestrator.pipeline.pipeline.run`.

    `checked.experiment` is the one with the pool of teachers.
    """
    stages: dict[str, Callable[[RunContext], dict[str, Any]]] = {
        "prepare": _prepare,
        "teachers": _teachers,
        "search": partial(_search, request=request),
        **{name: pipeline.STAGES[name] for name in AFTER},
    }
    return pipeline.run(checked, stages, command="ekd tune", begin=_begin)


def _begin(context: RunContext) -> None:
    for run in context.checked.experiment.first_runs():
        context.view.expect(run.name, run.training.epochs, training_work(run))
    if context.manifest.done("search"):
        adopt_best(context)


def _prepare(context: RunContext) -> dict[str, Any]:
    context.submit(context.checked.experiment.first_runs())
    return describe(context)


def _teachers(context: RunContext) -> dict[str, Any]:
    runs = context.checked.experiment.first_runs()
    return outcome(context, [run.name for run in runs], context.wait(runs))


def _search(context: RunContext, *, request: SearchRequest) -> dict[str, Any]:
    outputs = search(context, request)
    _adopt(context, outputs["best"]["values"])
    return outputs


def adopt_best(context: RunContext) -> None:
    """The search is done: the run is about the best trial's experiment."""
    _adopt(context, context.manifest.outputs("search")["best"]["values"])


def _adopt(context: RunContext, values: dict[str, Any]) -> None:
    best = trial_experiment(context.checked.experiment, values)
    context.checked = replace(context.checked, experiment=best)
    context.manifest.set(result_hash=best.result_hash())
    for run in (best.control_run(), best.student_run()):
        context.view.expect(run.name, run.training.epochs, training_work(run))

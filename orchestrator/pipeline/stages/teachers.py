"""Train the teachers, and what a pruned student starts from, side by side where the cluster has room."""

from __future__ import annotations

from typing import Any

from ekd_train.settings import TrainingRun
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.run_context import RunContext


def teachers(context: RunContext) -> dict[str, Any]:
    """The control is queued behind them if it can be, so that no worker is idle while the last trains."""
    runs = context.checked.experiment.first_runs()
    context.submit(queued_first(context.checked.experiment))
    return outcome(context, [run.name for run in runs], context.wait(runs))


def queued_first(experiment: Experiment) -> list[TrainingRun]:
    """The first runs, and the control, unless it must wait for one of them."""
    control = experiment.control_run()
    return [*experiment.first_runs(), *([control] if control.starts_from is None else [])]


def outcome(context: RunContext, names: list[str], records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest keeps of finished training runs."""
    return {
        name: {
            "mlflow_run": context.mlflow_run(name),
            "weights_sha256": record["sha256"],
            "best_epoch": int(record["best"]["epoch"]),
            "validation_accuracy": record["best"]["averaged/accuracy"],
            "train_seconds": round(record["seconds"], 3),
            "workers": record["workers"],
            "precision": record.get("precision"),  # None: of before it was recorded
        }
        for name, record in zip(names, records, strict=True)
    }

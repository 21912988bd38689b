"""Train the teachers, side by side where the cluster has room."""

from __future__ import annotations

from typing import Any

from orchestrator.context import Context


def teachers(context: Context) -> dict[str, Any]:
    """The control is queued behind them, so that no lane is idle while the last teacher trains."""
    experiment = context.checked.experiment
    runs = experiment.teacher_runs()
    context.submit([*runs, experiment.control_run()])
    return outcome(context, [run.name for run in runs], context.wait(runs))


def outcome(context: Context, names: list[str], records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest keeps of finished training runs."""
    return {
        name: {
            "mlflow_run": context.mlflow_run(name),
            "weights_sha256": record["sha256"],
            "best_epoch": int(record["best"]["epoch"]),
            "validation_accuracy": record["best"]["averaged/accuracy"],
            "train_seconds": round(record["seconds"], 3),
            "workers": record["workers"],
        }
        for name, record in zip(names, records, strict=True)
    }

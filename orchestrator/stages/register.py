"""Register the averaged student in MLflow's model registry."""

from __future__ import annotations

from typing import Any

from orchestrator.context import Context
from orchestrator.summary import summarise


def register(context: Context) -> dict[str, Any]:
    """A pt2 version with lineage; `champion` moves only to a version that is better on validation."""
    from ekd_train.networks import load_weights
    from ekd_train.trainee import build_plain
    from orchestrator.model_card import model_card
    from orchestrator.registry import lineage_tags, register_averaged_student

    checked, manifest = context.checked, context.manifest
    experiment, description = checked.experiment, checked.description
    keys = ("num_classes", "image_shape", "mean", "std")
    plain = build_plain(experiment.student.architecture, **{key: description[key] for key in keys})
    load_weights(checked.storage, "averaged", plain)
    summary = summarise(manifest.content)
    teachers = [manifest.outputs("teachers")[run.name] for run in experiment.teacher_runs()]
    lineage = lineage_tags(
        teacher_run_ids=[context.tracker.resolve(teacher["mlflow_run"]) for teacher in teachers],
        data_fingerprint=manifest.content["data_fingerprint"],
        experiment_hash=manifest.content["result_hash"],
        code=manifest.content["code_version"],
    )
    version = register_averaged_student(
        context.tracker,
        context.tracker.run_id,
        plain,
        (checked.dataset.validation.images[:3] / 255).astype("float32"),
        name=experiment.model_name,
        tags={**lineage, "ekd.run_id": checked.run_id, **_tested(summary["predictors"]["averaged"])},
        description=model_card(summary, experiment.resolved(), lineage),
        validation_metrics=summary["predictors"]["averaged"]["validation"],
    )
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "promotion": version.promotion,
        "uri": version.uri,
    }


def _tested(averaged: dict[str, Any]) -> dict[str, str]:
    """Tags that show the test metrics where versions are listed; nothing is decided by them."""
    return {f"ekd.test.{metric}": repr(float(value)) for metric, value in averaged["test"].items()}

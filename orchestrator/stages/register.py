"""Register the averaged student in MLflow's model registry."""

from __future__ import annotations

from typing import Any

from orchestrator.context import Context
from orchestrator.stages.average import averaged_student
from orchestrator.summary import summarise

TAGGED = ("accuracy", "nll")
"""Metrics that a version has as tags; the card and the run have all."""


def register(context: Context) -> dict[str, Any]:
    """A pt2 version with lineage; `champion` moves only to a version that is better on validation."""
    from orchestrator.model_card import model_card
    from orchestrator.registry import lineage_tags, register_averaged_student

    checked, manifest = context.checked, context.manifest
    experiment = checked.experiment
    summary = summarise(manifest.content)
    trained = manifest.outputs("teachers") | manifest.outputs("control") | manifest.outputs("distil")
    runs = {name: context.tracker.resolve(made["mlflow_run"]) for name, made in trained.items()}
    lineage = lineage_tags(
        teacher_run_ids=[runs[run.name] for run in experiment.teacher_runs()],
        data_fingerprint=manifest.content["data_fingerprint"],
        experiment_hash=manifest.content["result_hash"],
        code=manifest.content["code_version"],
    )
    place = f"#/experiments/{context.tracker.experiment_id}/runs"
    links = {name: f"{place}/{run}" for name, run in {"parent": context.tracker.run_id, **runs}.items()}
    averaged = summary["predictors"]["averaged"]
    version = register_averaged_student(
        context.tracker,
        context.tracker.run_id,
        averaged_student(context),
        (checked.dataset.validation.images[:3] / 255).astype("float32"),
        name=experiment.model_name,
        tags={**_tags("test", averaged["test"]), **lineage, "ekd.run_id": checked.run_id},
        description=model_card(summary, experiment.resolved(), lineage, links),
        validation_metrics={metric: averaged["validation"][metric] for metric in TAGGED},
    )
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "promotion": version.promotion,
        "uri": version.uri,
    }


def _tags(split: str, metrics: dict[str, float]) -> dict[str, str]:
    """For reading where versions are listed; nothing is decided by them."""
    return {f"ekd.{split}.{metric}": repr(float(metrics[metric])) for metric in TAGGED}

"""Register the averaged student in MLflow's model registry."""

import json
import shlex
import time

from ekd_train.evaluation.bootstrap import Bootstrap, Interval
from ekd_train.persistence.networks import load_predictions
from ekd_train.settings import Architecture
from orchestrator.pipeline.manifest_content import Registered
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.pipeline.stages.average import averaged_student
from orchestrator.pipeline.summary import summarise
from orchestrator.planning.preflight import Checked
from orchestrator.registry.model_card import CARD, fitted, model_card
from orchestrator.registry.provenance import ARCHITECTURE_TAG, PRUNED_TAG, lineage_tags
from orchestrator.registry.registration import MAX_DESCRIPTION_CHARACTERS, register_averaged_student
from orchestrator.tracking import TrackingError

PAUSE_S = 5.0

COMPARED = ("accuracy", "nll")
"""Validation metrics that decide who is champion."""
LISTED = (*COMPARED, "ece")
"""Test metrics that a version has as tags, for lists of versions; card and run have all."""


def register(context: RunContext) -> Registered:
    """A pt2 version with lineage; `champion` moves only to a version that is better on validation.

    The workers are let go at the beginning. Waits `tracking.patience_s` for a tracking server that is
    away. Raises `RunFailed` after that.
    """
    checked = context.checked
    context.begin_to_end()
    deadline = time.monotonic() + checked.experiment.tracking.patience_s
    while True:
        try:
            return _register(context)
        except TrackingError as error:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                weights = checked.storage.uri("networks/averaged.safetensors")
                raise RunFailed(
                    f"{error}; the averaged student is safe in {weights}; "
                    f"once the tracking server is back, register it with `{register_command(checked)}`"
                ) from error
            context.view.warn(f"{error}; trying again for {left_s:.0f} s")
            time.sleep(min(PAUSE_S, left_s))


def register_command(checked: Checked) -> str:
    """What registers the run later, and writes to MLflow what it lacks."""
    settings = checked.experiment.storage
    command = ["ekd", "register", checked.run_id, "--storage", settings.uri]
    return shlex.join(command + (["--endpoint-url", settings.endpoint_url] if settings.endpoint_url else []))


def _register(context: RunContext) -> Registered:
    checked, manifest = context.checked, context.manifest.content
    experiment = checked.experiment
    summary = summarise(manifest)
    runs = {name: context.tracker.child(name) for name in manifest.trained}
    for name, run in runs.items():
        context.manifest.note_mlflow_run(name, run)
    lineage = lineage_tags(
        teacher_run_ids=[runs[run.name] for run in experiment.teacher_runs()],
        data_fingerprint=manifest.data_fingerprint,
        experiment_hash=manifest.result_hash,
        code=manifest.code_version,
    )
    place = f"#/experiments/{context.tracker.experiment_id}/runs"
    links = {name: f"{place}/{run}" for name, run in {"parent": context.tracker.run_id, **runs}.items()}
    averaged = summary.predictors["averaged"]
    card = model_card(
        summary,
        experiment.resolved(),
        lineage,
        checked.description,
        runs=links,
        to_control=_to_control(context),
    )
    version = register_averaged_student(
        context.tracker,
        context.tracker.run_id,
        averaged_student(context),
        (checked.dataset.validation.images[:3] / 255).astype("float32"),
        name=experiment.model_name,
        tags={
            **{f"ekd.test.{metric}": repr(float(averaged.test[metric])) for metric in LISTED},
            "ekd.macs": repr(averaged.macs),
            "ekd.temperature": repr(float(averaged.temperature)),
            **_architecture_tags(experiment.student.architecture),
            **lineage,
            "ekd.run_id": checked.run_id,
        },
        description=fitted(card, MAX_DESCRIPTION_CHARACTERS),
        validation_metrics={metric: averaged.validation[metric] for metric in COMPARED},
    )
    checked.storage.write(CARD, card.encode())
    return Registered(
        name=version.name,
        version=version.version,
        aliases=tuple(version.aliases),
        promotion=version.promotion,
        uri=version.uri,
        archive_sha256=version.archive_sha256,
    )


def _to_control(context: RunContext) -> Interval:
    """Test accuracy minus the control's, as in the report: the same resamples give the same interval."""
    tensors = load_predictions(context.checked.storage)
    probs = {name: tensors[f"test/{name}"].mean(0) for name in ("averaged", "control")}
    return Bootstrap(probs, tensors["test/labels"]).difference("averaged", "control", "accuracy")


def _architecture_tags(architecture: Architecture) -> dict[str, str]:
    """What `ekd export` builds the network of; and the share that was pruned, to search for."""
    tags = {ARCHITECTURE_TAG: json.dumps(architecture.model_dump(exclude_none=True))}
    return tags | ({PRUNED_TAG: repr(architecture.pruned)} if architecture.pruned else {})

"""MLflow's logged model of a student: its files, and what is recorded of it beside a version's lineage."""

import json
import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.registry.exported_model import ARCHIVE_TAG, archive_sha256, save_exported
from orchestrator.tracking.connection import explained, upload
from orchestrator.tracking.tracker import Tracker

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

log = logging.getLogger(__name__)

WEIGHTS_TAG = "ekd.weights_sha256"
VERSIONS_TAG = "mlflow.modelVersions"
"""MLflow's own, on a logged model: the versions that it became, which its pages link to."""
_TAGS_OF_EARLIER = {"ekd.validation.": "validation/", "ekd.test.": "", "ekd.macs": "macs"}
"""What tags begin with that are metrics -> what the metric's name does; but for MACs, of an earlier ekd."""


@dataclass(frozen=True)
class Recorded:
    """Facts, settings and measurements of one student."""

    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    """The settings that it was made with: those that differ from the defaults, and those always shown."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """On the test images; `validation/...` on those of validation."""


def recorded_of(client: "MlflowClient", version: "ModelVersion") -> Recorded:
    """What is recorded of a registered version; its tags are among those of its logged model."""
    logged = _logged_model_of(client, version)
    tags = version.tags if logged is None else {**logged.tags, **version.tags}
    metrics = {}
    for tag, text in tags.items():
        for old, new in _TAGS_OF_EARLIER.items():
            if tag.startswith(old):
                with suppress(ValueError):  # anybody may have written it
                    metrics[new + tag.removeprefix(old)] = float(text)
    if logged is None:
        return Recorded(tags, {}, metrics)
    measured = {metric.key: metric.value for metric in logged.metrics or ()}
    return Recorded(tags, logged.params or {}, metrics | measured)


def _logged_model_of(client: "MlflowClient", version: "ModelVersion") -> "LoggedModel | None":
    """None: it was made of something else, or that was deleted."""
    kind, separator, model_id = (version.source or "").partition("models:/")  # `model_id` may be empty
    if kind or not separator:
        return None
    try:
        return client.get_logged_model(model_id)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def find_logged_model(tracker: Tracker, run: str, sha256: str) -> "LoggedModel | None":
    """A model that `run` logged completely: READY, and with the SHA-256 of its file."""
    found = tracker.client.search_logged_models(
        [tracker.experiment_id], f"source_run_id = '{run}' and tags.`{WEIGHTS_TAG}` = '{sha256}'"
    )
    return next((model for model in found if model.status == "READY" and ARCHIVE_TAG in model.tags), None)


def log_model(
    tracker: Tracker,
    run: str,
    module: "nn.Module",
    example_images: "np.ndarray",
    recorded: Recorded,
    metadata: Mapping[str, Any],
) -> "LoggedModel":
    """Log a model by the client's own steps; its name has that of the `ekd run`.

    `mlflow.pytorch.log_model` does the same, but needs a global active run, copies that run's
    metrics to the model one request at a time, and loads the model again to validate the example.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    client = tracker.client
    with explained(tracker.uri, "log a model in"):
        logged = client.create_logged_model(
            tracker.experiment_id,
            f"averaged-student-of-{tracker.ekd_run_id.replace('.', '-')}",  # MLflow allows no dots
            source_run_id=run,
            tags=dict(recorded.tags),
            params=dict(recorded.params),
        )
        # The same time again: where an earlier call was interrupted, the run has no value twice.
        began_ms = client.get_run(run).info.start_time
    measured = [
        Metric(key, value, began_ms, step=0, model_id=logged.model_id, run_id=run)
        for key, value in recorded.metrics.items()
    ]
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            save_exported(module, example_images, folder, logged, run, metadata)
            with explained(tracker.uri, "upload a model to"):
                upload(
                    tracker.uri,
                    logged.artifact_location,
                    str(folder),
                    lambda path: client.log_model_artifacts(logged.model_id, path),
                    tracker.storage_uri,
                )
                client.set_logged_model_tags(logged.model_id, {ARCHIVE_TAG: archive_sha256(folder)})
                client.log_batch(run, metrics=measured)
                client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
                return client.finalize_logged_model(logged.model_id, "READY")
    except Exception:
        try:
            client.finalize_logged_model(logged.model_id, "FAILED")
        except Exception as error:
            log.debug("the model's status could not be set: %s", error)
        raise


def link(client: "MlflowClient", version: "ModelVersion") -> None:
    """Say on the logged model which version it became: not every store does so by itself."""
    logged = _logged_model_of(client, version)
    if logged is not None and VERSIONS_TAG not in logged.tags:
        became = [{"name": version.name, "version": str(version.version)}]
        client.set_logged_model_tags(logged.model_id, {VERSIONS_TAG: json.dumps(became)})

"""From an averaged student to a version in MLflow's model registry.

The steps are: log the model under the parent run, create the version with its tags, move the
alias. After a crash between any two, the same call finds what is there, by the tags that name
the parent run and the weights, and does the rest.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.experiment.infrastructure import MODEL_NAME
from orchestrator.registry.champion import (
    ABOUT,
    PROMOTION_TAG,
    champion_of,
    move_champion,
    version_of,
)
from orchestrator.registry.exported_model import ARCHIVE_TAG, archive_sha256, save_exported
from orchestrator.registry.promotion import CHAMPION, Promotion, Validation, decide_promotion
from orchestrator.registry.provenance import loading_requirements, weights_sha256
from orchestrator.tracking.connection import explained, patient, upload
from orchestrator.tracking.run_state import shortened
from orchestrator.tracking.runs import RUN_ID_TAG
from orchestrator.tracking.tracker import Tracker

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

log = logging.getLogger(__name__)

PARENT_RUN_TAG = "ekd.parent_run_id"
WEIGHTS_TAG = "ekd.weights_sha256"
VALIDATION_TAG = "ekd.validation."
_LOGGED_MODEL_NAME = "averaged-student"
MAX_DESCRIPTION_CHARACTERS = 5000


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    archive_sha256: str
    """Of the registered program's bytes; empty: an earlier version of ekd registered it without."""
    promotion: str
    """Why it has the alias that it has."""

    @property
    def uri(self) -> str:
        """What `mlflow.pytorch.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def check_model_name(name: str) -> str:
    """`name`, if it can be a registered model's.

    Raises:
        ValueError: it holds something else than letters, digits, `.`, `_` and `-`.
    """
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(f"model name {name!r}: use letters, digits, '.', '_' and '-' only")
    return name


def register_averaged_student(
    tracker: Tracker,
    run: str,
    module: "nn.Module",
    example_images: "np.ndarray",
    *,
    name: str,
    tags: Mapping[str, str],
    description: str,
    validation_metrics: Mapping[str, float],
    pip_requirements: Sequence[str] | None = None,
) -> RegisteredVersion:
    """Register `module` as a version of `name`; called again, the same version is found.

    Args:
        tracker: of the `ekd run`.
        run: the MLflow run that the model belongs to: the parent.
        module: the plain averaged student: images (b, c, h, w) in [0, 1] -> logits.
        example_images: three images (3, c, h, w), float32 in [0, 1].
        name: of the registered model.
        tags: of the version: its lineage (`lineage_tags`).
        description: the model card, Markdown; the registry keeps its first 5,000 characters.
        validation_metrics: `accuracy`, `nll` and others, on the validation split.
        pip_requirements: of loading it; default: this torch and this mlflow.

    Raises:
        ExportError: the network cannot be saved faithfully in pt2 form.
        TrackingError: the store cannot be reached or refuses something.
        ValueError: the name or the example images are wrong.
    """
    check_model_name(name)
    sha256 = weights_sha256(module)
    all_tags = {
        **{key: str(value) for key, value in tags.items()},
        **{VALIDATION_TAG + metric: repr(float(value)) for metric, value in validation_metrics.items()},
        RUN_ID_TAG: tracker.ekd_run_id,
        PARENT_RUN_TAG: run,
        WEIGHTS_TAG: sha256,
    }
    client = tracker.client
    with patient(tracker.uri):
        with explained(tracker.uri, "look for the model in"):
            version = _find_version(tracker, run, name, sha256)
            logged = None if version else _find_logged_model(tracker, run, sha256)
        if version is None:
            if logged is None:
                pins = loading_requirements() if pip_requirements is None else pip_requirements
                logged = _log_model(tracker, run, module, example_images, all_tags, pins)
            with explained(tracker.uri, "create a model version in"):
                archive = {ARCHIVE_TAG: logged.tags[ARCHIVE_TAG]}
                version = _create_version(tracker, run, name, logged, all_tags | archive, description)
        with explained(tracker.uri, "set an alias in"):
            reason = _promote(tracker, version)
            aliases = tuple(sorted(client.get_model_version(name, version.version).aliases))
    archived = version.tags.get(ARCHIVE_TAG, "")
    return RegisteredVersion(name, str(version.version), aliases, archived, reason)


def _find_version(tracker: Tracker, run: str, name: str, sha256: str) -> "ModelVersion | None":
    found = tracker.client.search_model_versions(
        f"name = '{name}' and tags.`{PARENT_RUN_TAG}` = '{run}' and tags.`{WEIGHTS_TAG}` = '{sha256}'"
    )
    return found[0] if found else None


def _find_logged_model(tracker: Tracker, run: str, sha256: str) -> "LoggedModel | None":
    """A model that was logged completely: READY, and with the SHA-256 of its file."""
    found = tracker.client.search_logged_models(
        [tracker.experiment_id], f"source_run_id = '{run}' and tags.`{WEIGHTS_TAG}` = '{sha256}'"
    )
    return next((model for model in found if model.status == "READY" and ARCHIVE_TAG in model.tags), None)


def _log_model(
    tracker: Tracker,
    run: str,
    module: "nn.Module",
    example_images: "np.ndarray",
    tags: dict[str, str],
    requirements: Sequence[str],
) -> "LoggedModel":
    """Log a model by the client's own steps.

    `mlflow.pytorch.log_model` does the same, but needs a global active run, copies that run's
    metrics to the model one request at a time, and loads the model again to validate the example.
    """
    from mlflow.entities import LoggedModelOutput

    client = tracker.client
    with explained(tracker.uri, "log a model in"):
        logged = client.create_logged_model(
            tracker.experiment_id, _LOGGED_MODEL_NAME, source_run_id=run, tags=tags
        )
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            save_exported(module, example_images, folder, logged, run, requirements)
            with explained(tracker.uri, "upload a model to"):
                upload(
                    logged.artifact_location,
                    str(folder),
                    lambda path: client.log_model_artifacts(logged.model_id, path),
                )
                client.set_logged_model_tags(logged.model_id, {ARCHIVE_TAG: archive_sha256(folder)})
                client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
                return client.finalize_logged_model(logged.model_id, "READY")
    except Exception:
        try:
            client.finalize_logged_model(logged.model_id, "FAILED")
        except Exception as error:
            log.debug("the model's status could not be set: %s", error)
        raise


def _create_version(
    tracker: Tracker, run: str, name: str, logged: "LoggedModel", tags: dict[str, str], description: str
) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    client = tracker.client
    try:
        client.create_registered_model(name, description=ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=run,
        model_id=logged.model_id,
        tags=tags,
        description=shortened(description, MAX_DESCRIPTION_CHARACTERS),
    )


def _promote(tracker: Tracker, version: "ModelVersion") -> str:
    """Give the version the alias that the decision names, once; the reason of that decision.

    The tag with the reason is written last, so it tells a rerun that nothing is left to do;
    an alias may since have moved on to a better version.
    """
    if decided := version.tags.get(PROMOTION_TAG):
        return decided
    client, name, number = tracker.client, version.name, str(version.version)
    holder = champion_of(client, name)
    if holder == number:
        promotion = Promotion(CHAMPION, "its alias was set by other means than `ekd`")
    else:
        champion = _validation_of(version_of(client, name, holder)) if holder else None
        promotion = decide_promotion(_validation_of(version), champion, vacant=holder is None)
    if promotion.alias == CHAMPION:
        # Where an earlier call was interrupted it is noted already, and that reason stays.
        move_champion(client, name, number, kind="registered", reason=promotion.reason)
    else:
        client.set_registered_model_alias(name, promotion.alias, number)
    told = version_of(client, name, number).tags.get(PROMOTION_TAG)
    if told is None:
        told = str(promotion)
        client.set_model_version_tag(name, number, PROMOTION_TAG, told)
    return told


def _validation_of(version: "ModelVersion") -> Validation | None:
    measured = {key.removeprefix(VALIDATION_TAG): text for key, text in version.tags.items()}
    return Validation.of(measured)

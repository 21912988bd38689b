"""From an averaged student to a version in MLflow's model registry.

The steps are: log the model under the parent run, create the version with its tags, move the
alias. After a crash between any two, the same call finds what is there, by the tags that name
the parent run and the weights, and does the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.experiment.infrastructure import ChampionBy
from orchestrator.registry.champion import (
    ABOUT,
    MAX_DESCRIPTION_CHARACTERS,
    PROMOTION_TAG,
    champion_of,
    move_champion,
    say_on_run,
    version_of,
)
from orchestrator.registry.exported_model import ARCHIVE_TAG
from orchestrator.registry.logged_model import (
    WEIGHTS_TAG,
    Recorded,
    find_logged_model,
    link,
    log_model,
    recorded_of,
)
from orchestrator.registry.promotion import CHAMPION, Promotion, Validation, decide_promotion
from orchestrator.registry.provenance import weights_sha256
from orchestrator.tracking.connection import explained, global_store
from orchestrator.tracking.run_state import shortened
from orchestrator.tracking.runs import RUN_ID_TAG
from orchestrator.tracking.tracker import Tracker

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

PARENT_RUN_TAG = "ekd.parent_run_id"
VALIDATION = "validation/"
"""What names of metrics on the validation images begin with."""


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


def register_averaged_student(
    tracker: Tracker,
    run: str,
    module: "nn.Module",
    example_images: "np.ndarray",
    *,
    name: str,
    lineage: Mapping[str, str],
    description: str,
    recorded: Recorded,
    class_names: Sequence[str],
    temperature: float = 1.0,
    champion_by: ChampionBy = "accuracy",
    doubted: str | None = None,
) -> RegisteredVersion:
    """Register `module` as a version of `name`; called again, the same version is found.

    Args:
        tracker: of the `ekd run`.
        run: the MLflow run that the model belongs to: the parent.
        module: the plain averaged student: images (b, c, h, w) in [0, 1] -> logits.
        example_images: three images (3, c, h, w), float32 in [0, 1].
        name: of the registered model.
        lineage: tags of the version (`lineage_tags`).
        description: the model card, Markdown; the registry keeps its first 5,000 characters.
        recorded: of the logged model; its metrics of `run`, too. Versions are compared by
            `validation/accuracy`, `validation/nll` and `validation/balanced_accuracy`.
        class_names: in the order of the logits.
        temperature: divides the logits of whoever wants calibrated probabilities.
        champion_by: which of the validation metrics decides who is champion.
        doubted: why it is not to become champion by itself (`promotion.doubt`).

    Raises `ExportError`: the network cannot be saved faithfully in pt2 form; `TrackingError`: the store
    cannot be reached or refuses something; `ValueError`: the example images are wrong.
    """
    sha256 = weights_sha256(module)
    made_from = {**lineage, RUN_ID_TAG: tracker.ekd_run_id, PARENT_RUN_TAG: run}
    client = tracker.client
    with global_store(tracker.uri):
        with explained(tracker.uri, "look for the model in"):
            version = _find_version(tracker, run, name, sha256)
            logged = None if version else find_logged_model(tracker, run, sha256)
        if version is None:
            if logged is None:
                metadata = {"class_names": list(class_names), "temperature": temperature}
                about = replace(recorded, tags={**recorded.tags, WEIGHTS_TAG: sha256})
                logged = log_model(tracker, run, module, example_images, about, metadata)
            with explained(tracker.uri, "create a model version in"):
                archive = {ARCHIVE_TAG: logged.tags[ARCHIVE_TAG]}
                version = _create_version(tracker, run, name, logged, made_from | archive, description)
        with explained(tracker.uri, "link a model in"):
            link(client, version)
        with explained(tracker.uri, "set an alias in"):
            reason = _promote(client, version, champion_by, doubted)
            aliases = tuple(sorted(client.get_model_version(name, version.version).aliases))
    archived = version.tags.get(ARCHIVE_TAG, "")
    return RegisteredVersion(name, str(version.version), aliases, archived, reason)


def _find_version(tracker: Tracker, run: str, name: str, sha256: str) -> "ModelVersion | None":
    found = tracker.client.search_model_versions(f"name = '{name}' and tags.`{PARENT_RUN_TAG}` = '{run}'")
    same = (each for each in found if recorded_of(tracker.client, each).tags.get(WEIGHTS_TAG) == sha256)
    return next(same, None)


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


def _promote(client: "MlflowClient", version: "ModelVersion", by: ChampionBy, doubted: str | None) -> str:
    """Give the version the alias that the decision names, once; the reason of that decision.

    The tag with the reason is written last, so it tells a rerun that nothing is left to do;
    an alias may since have moved on to a better version.
    """
    if decided := version.tags.get(PROMOTION_TAG):
        return decided
    name, number = version.name, str(version.version)
    holder = champion_of(client, name)
    if holder == number:
        promotion = Promotion(CHAMPION, "its alias was set by other means than `ekd`")
    else:
        champion = _validation_of(client, version_of(client, name, holder)) if holder else None
        candidate = _validation_of(client, version)
        doubted = doubted or _twin(client, version)
        promotion = decide_promotion(candidate, champion, vacant=holder is None, by=by, doubted=doubted)
    if promotion.alias == CHAMPION:
        # Where an earlier call was interrupted it is noted already, and that reason stays.
        move_champion(client, name, number, kind="registered", reason=promotion.reason)
    else:
        before = client.get_registered_model(name).aliases.get(promotion.alias)
        if before is not None and str(before) != number:  # said first: afterwards nobody knows which it was
            say_on_run(client, version_of(client, name, str(before)), f"was {promotion.alias}")
        client.set_registered_model_alias(name, promotion.alias, number)
        say_on_run(client, version, promotion.alias)
    told = version_of(client, name, number).tags.get(PROMOTION_TAG)
    if told is None:
        told = str(promotion)
        client.set_model_version_tag(name, number, PROMOTION_TAG, told)
    return told


def _twin(client: "MlflowClient", version: "ModelVersion") -> str | None:
    """That an earlier version has these very weights: an experiment that was run again, or differs in what
    changes nothing. None: it is a network of its own."""
    weights = recorded_of(client, version).tags.get(WEIGHTS_TAG)
    others = sorted(client.search_model_versions(f"name = '{version.name}'"), key=lambda of: int(of.version))
    earlier = (each for each in others if int(each.version) < int(version.version))
    same = (each for each in earlier if recorded_of(client, each).tags.get(WEIGHTS_TAG) == weights)
    first = next(same, None) if weights else None
    return f"the same network as version {first.version}, weight for weight" if first else None


def _validation_of(client: "MlflowClient", version: "ModelVersion") -> Validation | None:
    metrics = recorded_of(client, version).metrics
    found = {key.removeprefix(VALIDATION): of for key, of in metrics.items() if key.startswith(VALIDATION)}
    return Validation.of(found)

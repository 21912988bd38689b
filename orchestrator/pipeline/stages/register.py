"""Register the averaged student in MLflow's model registry."""

import json
import shlex
import time

from ekd_train.data.description import DataDescription
from ekd_train.persistence.predictions import load_predictions
from ekd_train.settings import Architecture
from orchestrator.experiment.infrastructure import ChampionBy
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.smoke import is_small
from orchestrator.pipeline.manifest_content import Gain, Registered
from orchestrator.pipeline.projection import project, searched_keys, shown_params
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.pipeline.stages.average import averaged_student
from orchestrator.pipeline.stages.evaluate import difference
from orchestrator.pipeline.summary import Summary, headline, summarise
from orchestrator.planning.preflight import Checked
from orchestrator.registry.logged_model import Recorded
from orchestrator.registry.model_card import CARD, fitted, model_card
from orchestrator.registry.promotion import Validation, doubt
from orchestrator.registry.provenance import ARCHITECTURE_TAG, PRUNED_TAG, lineage_tags
from orchestrator.registry.registration import MAX_DESCRIPTION_CHARACTERS, register_averaged_student
from orchestrator.tracking import PARENT, TrackingError

PAUSE_S, SAY_EVERY_S = 5.0, 30.0
SMOKE = "a smoke run, whose numbers mean nothing"


def register(context: RunContext) -> Registered:
    """A pt2 version with lineage; `champion` moves only to a version that is better on validation, and
    neither at chance level nor worse than its own control.

    The workers are let go at the beginning. Waits `tracking.patience_s` for a tracking server that is
    away. Raises `RunFailed` after that.
    """
    checked = context.checked
    context.begin_to_end()
    deadline, say_at = time.monotonic() + checked.experiment.tracking.patience_s, 0.0
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
            if time.monotonic() >= say_at:
                context.view.warn(f"{one_line(error, 200)}; trying again for {left_s:.0f} s")
                say_at = time.monotonic() + SAY_EVERY_S
            time.sleep(min(PAUSE_S, left_s))


def register_command(checked: Checked) -> str:
    """What registers the run later, and writes to MLflow what it lacks."""
    experiment = checked.experiment
    command = ["ekd", "register", checked.run_id, "--storage", experiment.storage.uri]
    named = {"--endpoint-url": experiment.storage.endpoint_url, "--tracking": experiment.tracking.uri}
    return shlex.join(command + [word for option, at in named.items() if at for word in (option, at)])


def _register(context: RunContext) -> Registered:
    checked, manifest = context.checked, context.manifest.content
    experiment = checked.experiment
    summary = summarise(manifest)
    states = project(checked.storage, experiment)
    # Each training run is made with the times of its training; the parent's numbers come with the model.
    context.tracker.show({name: state for name, state in states.items() if name != PARENT})
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
    to_control = _to_control(context)
    summary = summary.model_copy(update={"to_control": to_control})
    doubted = _doubted(summary, experiment.tracking.champion_by, checked.description)
    said = SMOKE if is_small(experiment) else doubted
    if is_small(experiment) and experiment.tracking.registered_model:  # beside versions that are meant
        doubted = SMOKE
    card = model_card(summary, experiment.resolved(), lineage, checked.description, runs=links, doubted=said)
    version = register_averaged_student(
        context.tracker,
        context.tracker.run_id,
        averaged_student(context),
        (checked.dataset.validation.images[:3] / 255).astype("float32"),
        name=experiment.model_name,
        lineage=lineage,
        description=fitted(card, MAX_DESCRIPTION_CHARACTERS),
        recorded=Recorded(
            tags={
                "ekd.macs": repr(averaged.macs),
                "ekd.temperature": repr(float(averaged.temperature)),
                **_architecture_tags(experiment.student.architecture),
            },
            params=shown_params(experiment, searched_keys(manifest)),
            metrics=headline(summary.predictors, to_control),
        ),
        class_names=checked.description.class_names,
        temperature=float(averaged.temperature),
        champion_by=experiment.tracking.champion_by,
        doubted=doubted,
    )
    checked.storage.write(CARD, card.encode())
    return Registered(
        name=version.name,
        version=version.version,
        aliases=tuple(version.aliases),
        promotion=version.promotion,
        uri=version.uri,
        archive_sha256=version.archive_sha256,
        experiment_id=context.tracker.experiment_id,
    )


def _doubted(summary: Summary, by: ChampionBy, data: DataDescription) -> str | None:
    """Why the student is not to become champion by itself; None: no reason."""
    student, control = (
        Validation.of(summary.predictors[name].validation) for name in ("averaged", "control")
    )
    if student is None or control is None:
        return None
    return doubt(student, control, by=by, classes=data.num_classes, images=data.validation)


def _to_control(context: RunContext) -> Gain:
    """Noted where it was evaluated, but by earlier versions."""
    if noted := context.manifest.content.evaluated.to_control:
        return noted
    predictors = ("averaged", "control")
    tensors = load_predictions(context.checked.storage, context.checked.description, predictors)
    return difference(tensors, "test", *predictors)


def _architecture_tags(architecture: Architecture) -> dict[str, str]:
    """What `ekd export` builds the network of; and the share that was pruned, to search for."""
    tags = {ARCHITECTURE_TAG: json.dumps(architecture.model_dump(exclude_none=True))}
    return tags | ({PRUNED_TAG: repr(architecture.pruned)} if architecture.pruned else {})

"""`manifest.json`: which stages of a run are done and what they made. Enough to continue."""

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ekd_train.data.description import DataDescription
from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.persistence.identity import identity_of
from ekd_train.persistence.records import NewerRecord, Record, UnreadableRecord
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.pipeline.manifest_content import FORMAT, ManifestContent, Stage, parsed_outputs
from orchestrator.storage import Conflict, MissingKey, Storage, Version

if TYPE_CHECKING:
    from orchestrator.tracking import RunStatus

MANIFEST, EXPERIMENT, SUMMARY = "manifest.json", "experiment.json", "summary.json"
REPORT = "report.html"
"""Among a run's objects, and among the artifacts of its MLflow run."""
EVALUATION = "evaluation.json"
"""What `ekd evaluate` found, if somebody asked."""
STATES: "dict[RunStatus, str]" = {"FINISHED": "done", "KILLED": "interrupted", "FAILED": "failed"}
"""What the manifest calls MLflow's states."""

R = TypeVar("R", bound=Record)


class NewerDocument(ExperimentError):
    """A stored document is of a newer version of ekd, and stays as it is; the message names both."""


class Manifest:
    """The manifest of one run, stored after each of its stages. Only the driver that has the lease writes it.

    Every write is conditional on the version that this process read or wrote last: a driver that was
    suspended until another one took the run over cannot undo what that one has done.
    """

    def __init__(self, storage: Storage, content: ManifestContent, version: Version | None = None) -> None:
        self.storage, self.content, self._version = storage, content, version

    @classmethod
    def open(cls, storage: Storage, experiment: Experiment, run_id: str, fingerprint: str, code: str) -> Self:
        """The manifest of `run_id`, new or as an earlier start left it.

        Raises `ExperimentError` when the run id belongs to another experiment or other data.
        """
        version: Version | None = None
        with suppress(MissingKey):
            _, version = storage.read_versioned(MANIFEST)
        content = read_manifest(storage)  # after its version: a write in between is a conflict later
        if content is not None:
            _check_same(storage, content, experiment, run_id, fingerprint)
            return cls(storage, content, version)
        now = time.time()
        content = ManifestContent(
            run_id=run_id,
            experiment=experiment.name,
            result_hash=experiment.result_hash(),
            data_fingerprint=fingerprint,
            code_version=code,
            created=now,
            updated=now,
            status="running",
        )
        manifest = cls(storage, content)
        storage.write(EXPERIMENT, json.dumps(experiment.resolved(), indent=2).encode())
        manifest.set()
        return manifest

    def done(self, stage: str) -> bool:
        """Whether the stage was finished, now or by an earlier start."""
        return self.content.done(stage)

    def finish(self, stage: str, seconds: float, outputs: Any) -> None:
        """Note that the stage is finished; `outputs`: as `manifest_content.OUTPUTS` says."""
        made = Stage(seconds=round(seconds, 3), outputs=parsed_outputs(stage, outputs))
        self.set(stages={**self.content.stages, stage: made})

    def note_mlflow_run(self, name: str, mlflow_run: str) -> None:
        """Keep the id under which `name` (`parent`, or a training run) is recorded."""
        if self.content.mlflow.get(name) != mlflow_run:
            self.set(mlflow={**self.content.mlflow, name: mlflow_run})

    def set(self, **values: Any) -> None:
        """Change top-level values, such as the status, and store it, whole or not at all.

        Raises `Conflict` if another driver has written it meanwhile.
        """
        self.content = self.content.model_copy(update={**values, "updated": time.time()})
        data = json.dumps(self.content.model_dump(mode="json"), indent=2).encode()
        try:
            self._version = self.storage.write_if(MANIFEST, data, match=self._version)
        except Conflict:
            # A write whose answer got lost conflicts with itself when it is sent again.
            found, version = self.storage.read_versioned(MANIFEST)
            if found != data:
                uri = self.storage.uri(MANIFEST)
                raise Conflict(uri, "another driver has taken this run over", "let it finish") from None
            self._version = version


def read_json(storage: Storage, key: str) -> dict[str, Any] | None:
    """A stored JSON object, or None if there is none. Raises `ExperimentError` if it is damaged."""
    try:
        content = read_bounded_json(storage.read(key))
    except MissingKey:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ExperimentError(
            f"{storage.uri(key)}: not valid JSON, so the run cannot be continued; "
            "restore the file, or start afresh with --run-id and a new name"
        )
    return content


def read_record(storage: Storage, key: str, kind: type[R]) -> R | None:
    """A stored record, or None if there is none.

    Raises `ExperimentError` if it is damaged or something else of that name, `NewerDocument` if it is of a
    newer version.
    """
    content = read_json(storage, key)
    if content is None:
        return None
    try:
        return kind.parse(content, storage.uri(key))
    except UnreadableRecord as error:
        raise ExperimentError(str(error)) from None
    except NewerRecord as error:
        raise NewerDocument(str(error)) from None


def read_manifest(storage: Storage) -> ManifestContent | None:
    """The stored manifest of a run, or None if there is none; errors as `read_record`."""
    return read_record(storage, MANIFEST, ManifestContent)


def check_continuable(storage: Storage, experiment: Experiment, run_id: str, data: DataDescription) -> None:
    """Raise `ExperimentError` if `storage` holds a run that this experiment cannot continue."""
    content = read_manifest(storage)
    if content is not None:
        how = f" ({_changed_images(content, data)})"
        _check_same(storage, content, experiment, run_id, data.fingerprint, how)


def id_for_images(storage: Storage, run_id: str, data: DataDescription) -> tuple[str, str | None]:
    """`run_id`; if a run of that id was started on other images, the id of one on these, and what changed.

    `storage`: of all runs. The same settings and images give the same id again.
    """
    content = read_manifest(storage.child(run_id))
    if content is None or content.data_fingerprint == data.fingerprint:
        return run_id, None
    made = f"{run_id.rpartition('-')[0]}-{identity_of(run_id, data.fingerprint)[:10]}"
    changed = _changed_images(content, data)
    return made, f"run {run_id} is on other images ({changed}); on these it is run {made}"


def _changed_images(content: ManifestContent, now: DataDescription) -> str:
    """How the images differ from those of a run, in words."""
    before = content.prepared.data if content.done("prepare") else None
    names = {"train": "training", "validation": "validation", "test": "test", "num_classes": "classes"}
    found = [
        f"{getattr(before, key)} {name}{'' if key == 'num_classes' else ' images'}, now {getattr(now, key)}"
        for key, name in names.items()
        if before is not None and getattr(before, key) != getattr(now, key)
    ]
    return "; ".join(found) or "as many, but pixels, labels or names of classes differ"


def _check_same(
    storage: Storage,
    content: ManifestContent,
    experiment: Experiment,
    run_id: str,
    fingerprint: str,
    how: str = "",
) -> None:
    if content.format < FORMAT and not content.done("evaluate"):
        raise ExperimentError(
            f"run {run_id} was begun by an earlier version of ekd (code {content.code_version}), whose "
            "unfinished runs this one cannot continue; finish it with that version, or use another --run-id"
        )
    before = read_experiment(storage)
    known = before.result_settings() if before is not None else {}
    changed = sorted(_differences(known, experiment.result_settings()))
    if changed:
        raise ExperimentError(
            f"run {run_id} was started with another {', '.join(changed[:4])}; "
            "use the same settings to continue it, or another --run-id"
        )
    if content.data_fingerprint != fingerprint:
        raise ExperimentError(
            f"run {run_id} was started on other images{how}; restore the files below data.root, or use "
            "another --run-id (without one, the same command starts a run on these)"
        )


def _differences(before: Any, now: Any, key: str = "") -> set[str]:
    """Dotted keys whose values differ; a dictionary that is not there is an empty one."""
    if isinstance(before, dict) or isinstance(now, dict):
        before, now = before or {}, now or {}
    if isinstance(before, dict) and isinstance(now, dict):
        names = before.keys() | now.keys()
        return {k for n in names for k in _differences(before.get(n), now.get(n), f"{key}.{n}")}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        pairs = zip(before, now, strict=True)
        return {k for i, (b, n) in enumerate(pairs) for k in _differences(b, n, f"{key}.{i}")}
    return set() if before == now else {key.removeprefix(".")}


def read_experiment(run: Storage) -> Experiment | None:
    """The experiment that a run was begun with, or None if there is none. Raises `ExperimentError`."""
    tree = read_json(run, EXPERIMENT)
    if tree is None:
        return None
    try:
        return build_experiment(tree)
    except ExperimentError as error:
        manifest = read_manifest(run)
        version = f"; ekd of code {manifest.code_version} wrote it, and reads it" if manifest else ""
        raise ExperimentError(f"{run.uri(EXPERIMENT)}: {error}{version}") from None


def read_run(run: Storage, stage: str) -> tuple[ManifestContent, Experiment] | None:
    """Manifest and experiment of a run that has done `stage`; None if it has not come so far.

    After a search the experiment is the best trial's: the one that made the student.

    Raises `ExperimentError` for a file that is damaged, or gone.
    """
    manifest = read_manifest(run)
    if manifest is None or not manifest.done(stage):
        return None
    experiment = read_experiment(run)
    if experiment is None:
        raise ExperimentError(f"{run.uri(EXPERIMENT)}: is missing; without it the run cannot be read")
    if manifest.done("search"):
        from orchestrator.tuning.pool import trial_experiment

        experiment = trial_experiment(experiment, manifest.searched.best.values)
    return manifest, experiment

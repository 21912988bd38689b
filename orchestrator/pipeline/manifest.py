"""`manifest.json`: which stages of a run are done and what they made. Enough to continue."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ekd_train.persistence.bounded_json import read_bounded_json
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.storage import Conflict, MissingKey, Storage, Version

if TYPE_CHECKING:
    from orchestrator.tracking import RunStatus

FORMAT = 1
MANIFEST, EXPERIMENT, SUMMARY = "manifest.json", "experiment.json", "summary.json"
REPORT = "report.html"
"""Among a run's objects, and among the artifacts of its MLflow run."""
EVALUATION = "evaluation.json"
"""What `ekd evaluate` found, if somebody asked."""
STATES: dict[RunStatus, str] = {"FINISHED": "done", "KILLED": "interrupted", "FAILED": "failed"}
"""What the manifest calls MLflow's states."""


class Manifest:
    """The stages of one run, stored after each of them. Only the run's owner writes it.

    Every write is conditional on the version that this process read or wrote last: a driver that was
    suspended until another one took the run over cannot undo what that one has done.
    """

    def __init__(self, storage: Storage, content: dict[str, Any], version: Version | None = None) -> None:
        self.storage, self.content, self._version = storage, content, version

    @classmethod
    def open(
        cls, storage: Storage, experiment: Experiment, run_id: str, fingerprint: str, code: str
    ) -> Manifest:
        """The manifest of `run_id`, new or as an earlier start left it.

        Raises `ExperimentError` when the run id belongs to another experiment or other data.
        """
        version: Version | None = None
        with suppress(MissingKey):
            _, version = storage.read_versioned(MANIFEST)
        content = read_manifest(storage)  # after its version: a write in between is a conflict later
        if content is None:
            manifest = cls(
                storage,
                {
                    "format": FORMAT,
                    "run_id": run_id,
                    "experiment": experiment.name,
                    "result_hash": experiment.result_hash(),
                    "data_fingerprint": fingerprint,
                    "code_version": code,
                    "created": time.time(),
                    "status": "running",
                    "stages": {},
                    "mlflow": {},
                },
            )
            storage.write(EXPERIMENT, json.dumps(experiment.resolved(), indent=2).encode())
            manifest.save()
            return manifest
        _check_same(storage, content, experiment, run_id, fingerprint)
        return cls(storage, content, version)

    def done(self, stage: str) -> bool:
        """Whether the stage was finished, now or by an earlier start."""
        return stage in self.content["stages"]

    def outputs(self, stage: str) -> dict[str, Any]:
        """What a finished stage made."""
        outputs: dict[str, Any] = self.content["stages"][stage]["outputs"]
        return outputs

    def finish(self, stage: str, seconds: float, outputs: dict[str, Any]) -> None:
        """Note that the stage is finished."""
        self.content["stages"][stage] = {"seconds": round(seconds, 3), "outputs": outputs}
        self.save()

    def set(self, **values: Any) -> None:
        """Change top-level values, such as the status."""
        self.content.update(values)
        self.save()

    def note_mlflow_run(self, name: str, mlflow_run: str) -> None:
        """Keep the id under which `name` (`parent`, or a training run) is recorded."""
        if self.content["mlflow"].get(name) != mlflow_run:
            self.content["mlflow"][name] = mlflow_run
            self.save()

    def save(self) -> None:
        """Store it, whole or not at all. Raises `Conflict` if another driver has, meanwhile."""
        self.content["updated"] = time.time()
        data = json.dumps(self.content, indent=2).encode()
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


def read_manifest(storage: Storage) -> dict[str, Any] | None:
    """The stored manifest of a run, or None if there is none; every stage in it has its outputs.

    Raises `ExperimentError` if it is damaged, or something else of that name.
    """
    content = read_json(storage, MANIFEST)
    if content is None:
        return None
    stages = content.get("stages")
    whole = isinstance(stages, dict) and all(
        isinstance(stage, dict) and isinstance(stage.get("outputs"), dict) for stage in stages.values()
    )
    if not whole or not isinstance(content.get("updated", 0.0), int | float):
        raise ExperimentError(f"{storage.uri(MANIFEST)}: not the manifest of a run of this version of ekd")
    return content


def check_continuable(storage: Storage, experiment: Experiment, run_id: str, fingerprint: str) -> None:
    """Raise `ExperimentError` if `storage` holds a run that this experiment cannot continue."""
    content = read_manifest(storage)
    if content is not None:
        _check_same(storage, content, experiment, run_id, fingerprint)


def _check_same(
    storage: Storage, content: dict[str, Any], experiment: Experiment, run_id: str, fingerprint: str
) -> None:
    if content.get("format") != FORMAT:
        raise ExperimentError(
            f"{storage.uri(MANIFEST)}: format {content.get('format')!r} is of another version of ekd; "
            "use another --run-id"
        )
    before = read_json(storage, EXPERIMENT)
    known = build_experiment(before).result_settings() if before is not None else {}
    changed = sorted(_differences(known, experiment.result_settings()))
    if changed:
        raise ExperimentError(
            f"run {run_id} was started with another {', '.join(changed[:4])}; "
            "use the same settings to continue it, or another --run-id"
        )
    if content["data_fingerprint"] != fingerprint:
        raise ExperimentError(
            f"run {run_id} was started on other data (fingerprint {content['data_fingerprint'][:12]}, "
            f"now {fingerprint[:12]}); restore the files below data.root, or use another --run-id"
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


def read_run(run: Storage, stage: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Manifest and resolved experiment of a run that has done `stage`; None if it has not come so far.

    After a search the experiment is the best trial's: the one that made the student.

    Raises `ExperimentError` for a file that is damaged, or gone.
    """
    manifest = read_manifest(run)
    if manifest is None or stage not in manifest["stages"]:
        return None
    experiment = read_json(run, EXPERIMENT)
    if experiment is None:
        raise ExperimentError(f"{run.uri(EXPERIMENT)}: is missing; without it the run cannot be read")
    if "search" in manifest["stages"]:
        from orchestrator.tuning.pool import trial_experiment

        best = manifest["stages"]["search"]["outputs"]["best"]
        experiment = trial_experiment(build_experiment(experiment), best["values"]).resolved()
    return manifest, experiment

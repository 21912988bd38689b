"""What an `ekd run` tells MLflow: one parent run, one child per training run.

Only the driver process uses it. Opening it can fail and then stops the run; afterwards no
write stops training: it waits in the outbox and is delivered later (`outbox.py`).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.tracking.connection import connect, explained
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.records import (
    Artifact,
    DatasetInput,
    Metrics,
    Params,
    Status,
    Tags,
    flattened,
    legal_key,
    tensor_schema,
)
from orchestrator.tracking.runs import Runs, legal_tags
from orchestrator.tracking.writer import Writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_MAX_DIGEST_CHARACTERS = 36


class Tracker:
    """The MLflow runs of one `ekd run`. Make one with `Tracker.open`.

    Attributes:
        uri: the tracking URI; it may hold credentials (`redacted` it before showing it).
        client: MLflow's client, for `orchestrator.registry`.
        ekd_run_id: the `ekd run`.
        experiment_id: the MLflow experiment.
        run_id: the MLflow id of the parent run.
    """

    def __init__(self, uri: str, client: MlflowClient, runs: Runs, outbox: Outbox, run_id: str, files: Path):
        self.uri = uri
        self.client = client
        self.ekd_run_id = runs.ekd_run_id
        self.experiment_id = runs.experiment_id
        self.run_id = run_id
        self._runs = runs
        self._outbox = outbox
        self._files = files
        self._unfinished = {run_id}

    @classmethod
    def open(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        *,
        ekd_run_id: str,
        instance: str,
        spool: Path,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        storage_uri: str = "",
    ) -> Tracker:
        """Open the parent run: the one of an earlier start of this `ekd run` if there is one.

        What an earlier process could not write is delivered first.

        Args:
            uri: from `resolve_tracking_uri`.
            experiment: MLflow experiment, created when missing.
            run_name: name of the parent run.
            ekd_run_id: the `ekd run`.
            instance: tells it from another run with the same id; a manifest's time of creation
                will do. By both tags a run is found again whose `run_id` was not stored.
            spool: local folder of this `ekd run` for what is not written yet.
            run_id: MLflow id of the parent run, if it is known.
            tags: tags of a new parent run.
            storage_uri: of the `ekd run`s; in S3 a new experiment's artifacts are kept there.

        Raises:
            TrackingError: the store cannot be used.
        """
        client = connect(uri)
        with explained(uri, "open a run in"):
            runs = Runs(client, uri, experiment, ekd_run_id, instance, storage_uri)
            outbox = Outbox(Writer(client, runs).deliver, spool)
            outbox.flush(force=True)
            parent = runs.parent(run_name, run_id, tags or {})
        return cls(uri, client, runs, outbox, parent, spool / "artifacts")

    def child(self, name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        """The id of the training run `name` under the parent: reopened where it exists, else new.

        While the store is unreachable it is a stand-in, which every method here accepts and
        which becomes a real run later (`resolve`).
        """
        run = None
        self._outbox.flush()
        if not self._outbox.offline:
            try:
                run = self._runs.child(name, run_id, tags or {}, self.run_id)
            except Exception as error:
                log.debug("child run %s is postponed: %s", name, error)
        if run is None:
            run = run_id or self._runs.postponed_child(name, self.run_id)
            self._outbox.put(Tags(run, legal_tags(tags or {})))
        self._unfinished.add(run)
        return run

    def resolve(self, run: str) -> str:
        """The MLflow id of a run that `child` returned.

        Raises:
            TrackingError: it was postponed, and the store is still unreachable.
        """
        with explained(self.uri, "create a run in"):
            return self._runs.resolve(run)

    @property
    def pending(self) -> int:
        """Writes that are not in the store yet."""
        return self._outbox.pending

    def log_params(self, run: str, settings: Mapping[str, Any]) -> None:
        """Settings, nested ones as dotted names.

        MLflow's params never change: one that differs from what a resumed run already has is
        kept as the tag `ekd.changed_param.<name>`, beside the value that the run began with.
        """
        self._outbox.put(Params(run, flattened(settings)))

    def log_metrics(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Values of one step, written in batches; a step that the run already has is left out."""
        legal = {legal_key(name): float(value) for name, value in values.items()}
        self._outbox.put(Metrics(run, legal, step, _now_ms()))

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Tags; a later value replaces an earlier one."""
        self._outbox.put(Tags(run, legal_tags(tags)))

    def log_dataset(
        self,
        run: str,
        name: str,
        source: str,
        fingerprint: str,
        *,
        source_type: str = "local",
        context: str = "training",
        image_shape: tuple[int, ...] | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """The data set that a run reads, by description: the images themselves are not touched.

        Args:
            run: the run that reads it.
            name: such as `fashion_mnist`.
            source: where it came from: a folder, a URL, a package.
            fingerprint: of the data; MLflow's digest is its first 36 characters.
            source_type: MLflow's word for the kind of `source`: `local`, `s3`, `http`, `code`.
            context: what it is for: `training`, `validation`, `test`.
            image_shape: (c, h, w) of its uint8 images.
            profile: anything countable, such as images per split; shown as it is.
        """
        schema = None if image_shape is None else tensor_schema(image_shape)
        self._outbox.put(
            DatasetInput(
                run,
                name,
                fingerprint[:_MAX_DIGEST_CHARACTERS],
                source_type,
                json.dumps({"uri": source}),
                context,
                schema,
                json.dumps({"fingerprint": fingerprint, **(profile or {})}, default=str),
            )
        )

    def log_artifact_text(self, run: str, path: str, text: str) -> None:
        """`text` as the artifact `path`, such as `report/summary.md`."""
        file = self._new_file(path)
        file.write_text(text)
        self._outbox.put(Artifact(run, path, str(file)))

    def log_dict(self, run: str, path: str, content: Mapping[str, Any]) -> None:
        """`content` as a JSON artifact."""
        self.log_artifact_text(run, path, json.dumps(content, indent=2, default=str) + "\n")

    def log_file(self, run: str, path: str, file: Path) -> None:
        """A copy of `file` as the artifact `path`."""
        copy = shutil.copyfile(file, self._new_file(path))
        self._outbox.put(Artifact(run, path, str(copy)))

    def log_figure(self, run: str, path: str, figure: Figure) -> None:
        """A matplotlib figure as an image; the suffix of `path` (`.png`, `.svg`) is its format."""
        file = self._new_file(path)
        figure.savefig(file, bbox_inches="tight")
        self._outbox.put(Artifact(run, path, str(file)))

    def flush(self) -> bool:
        """Write what waits, unless the store was unreachable a moment ago; whether all is written."""
        return self._outbox.flush()

    def finish(self, run: str, status: RunStatus) -> None:
        """End a child run."""
        self._outbox.put(Status(run, status, _now_ms()))
        self._unfinished.discard(run)

    def close(self, status: RunStatus) -> str | None:
        """End the parent run, and with the same status every child that was not finished.

        Returns:
            None when everything is written, else one line that says what is not and where it waits.
        """
        for run in sorted(self._unfinished - {self.run_id}):
            self.finish(run, status)
        self.finish(self.run_id, status)
        if self._outbox.flush(force=True) and self._end_forgotten(status):
            return None
        if not self._outbox.journalled:
            return (
                f"{self._outbox.pending} writes did not reach the tracking store, and {self._outbox.journal} "
                "cannot be written; the same run started again writes what its checkpoints know of them"
            )
        return (
            f"{self._outbox.pending} writes did not reach the tracking store; they wait in "
            f"{self._outbox.journal} and are written when the same run is started again"
        )

    def _end_forgotten(self, status: RunStatus) -> bool:
        """End children that this process never heard of; whether that is written.

        An earlier one that was killed left them, or an interrupt came while one was made.
        """
        if status != "FINISHED":
            try:
                forgotten = self._runs.running_children(self.run_id)
            except Exception as error:
                log.debug("whether children are left running is not known: %s", error)
                forgotten = []
            for run in forgotten:
                self.finish(run, status)
        return self.flush()

    def _new_file(self, path: str) -> Path:
        """A file to fill, named as the artifact will be, in a folder of its own."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts:
            raise ValueError(f"artifact {path!r}: expected a relative path inside the run")
        folder = self._files / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder / PurePosixPath(path).name


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""The MLflow runs of one `ekd run`, found again or created, and writing to them what they lack.

Runs carry the tags `ekd.run_id` and `ekd.instance`, by which and by their names they are found. The
instance tells apart runs with the same id: an `ekd run` of the same experiment into another storage,
or again after its files were deleted.

Writing the same twice changes nothing:

* a metric value whose step the run has is not written again; one whose answer was lost is sent again
  with its own timestamp, which MLflow recognises;
* a param cannot be changed; a value that differs from the one a run has (a setting changed before a
  restart) is kept as the tag `ekd.changed_param.<name>`;
* tags, artifacts, data sets and the status are overwritten with the same;
* a child that is FINISHED has every step of the metrics that it has: the status is written last.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tracking.address import artifact_location, redacted
from orchestrator.tracking.connection import own_folder, upload
from orchestrator.tracking.run_state import PARENT, Unwritten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

RUN_ID_TAG = "ekd.run_id"
INSTANCE_TAG = "ekd.instance"
PARENT_TAG = "mlflow.parentRunId"
CHANGED_PARAM = "ekd.changed_param."

VALUES_PER_CALL = 1000
"""MLflow's limit on the metrics of one `log_batch`."""
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")


@dataclass
class _Held:
    """What is known of a run that MLflow has."""

    run_id: str
    artifact_uri: str
    status: str = "RUNNING"
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)
    """Those with a value."""
    steps: dict[str, set[int]] = field(default_factory=dict)
    """Of those that were looked up or written."""


class Runs:
    """The runs of one `ekd run` in one MLflow experiment, which is created if there is none.

    Arguments as `Tracker.open`, and an open client of `uri`.
    """

    def __init__(
        self,
        client: "MlflowClient",
        uri: str,
        experiment: str,
        ekd_run_id: str,
        instance: str,
        storage_uri: str,
        confirm: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        self._client, self._uri, self._confirm, self._warn = client, uri, confirm, warn
        self.storage_uri = storage_uri
        self.ekd_run_id = ekd_run_id
        self._identity = {RUN_ID_TAG: ekd_run_id, INSTANCE_TAG: instance}
        self.experiment_id = self._find_or_create_experiment(
            experiment, artifact_location(uri, experiment, storage_uri)
        )
        self._known: dict[str, _Held] | None = None
        """By name; None: not looked up, or a run may have been created whose id nobody got."""

    def open(self, name: str) -> str:
        """The MLflow id of the run `name`, which is looked up or created; a deleted one is restored."""
        return self._open(name).run_id

    def begin(self, name: str) -> str:
        """As `open`; what an earlier start has ended goes on."""
        held = self._open(name)
        if held.status != "RUNNING":
            self._client.update_run(held.run_id, status="RUNNING")
            held.status = "RUNNING"
        return held.run_id

    def running(self) -> list[str]:
        """The names of the children that nobody has ended."""
        return [name for name, held in self._look().items() if held.status == "RUNNING" and name != PARENT]

    def forget(self) -> None:
        """Look everything up again before the next write: what became of the last one is not known."""
        self._known = None

    def write(self, name: str, unwritten: Unwritten) -> None:
        """Write all but the artifacts, and take it out of `unwritten`.

        What MLflow refuses for good (its content, not for want of an answer) is taken out with a warning.
        Anything else that MLflow or the network raises is passed on: `forget` before the next call.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        if unwritten.only_artifacts:
            return
        held, status = self._open(name, unwritten.began), unwritten.status
        if status is None:
            self.begin(name)
        complete = name != PARENT and held.status == status == "FINISHED"
        params = {key: text for key, text in unwritten.params.items() if key not in held.params}
        changed = {key: text for key, text in unwritten.params.items() if held.params.get(key, text) != text}
        if changed:
            log.warning("settings changed since the run began, kept as tags: %s", ", ".join(sorted(changed)))
        tags = unwritten.tags | {CHANGED_PARAM + key: text for key, text in changed.items()}
        tags = {key: text for key, text in tags.items() if held.tags.get(key) != text}
        metrics = [
            Metric(metric, value, unwritten.times[metric, step], step)
            for (metric, step), value in unwritten.metrics.items()
            if not (complete and metric in held.metrics) and step not in self._steps(held, metric)
        ]
        self._log(held, "params", [Param(*item) for item in params.items()], 100)
        self._log(held, "tags", [RunTag(*item) for item in tags.items()], 100)
        self._log(held, "metrics", metrics, VALUES_PER_CALL)
        inputs = [
            DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", context)])
            for context, fields in unwritten.datasets.items()
        ]
        if inputs:
            _unless_refused(self._client.log_inputs, held.run_id, inputs)
        held.params |= params
        held.tags |= tags
        for point in metrics:
            held.steps[point.key].add(point.step)
        if status is not None and status != held.status and (unwritten.whole or status != "FINISHED"):
            ended_ms = None if unwritten.ended is None else int(1000 * unwritten.ended)
            _unless_refused(self._client.set_terminated, held.run_id, status, ended_ms)
            held.status = status
        unwritten.written()

    def write_artifacts(self, name: str, unwritten: Unwritten) -> None:
        """Upload the artifacts and take them out of `unwritten`; raises what the upload raises."""
        if not unwritten.artifacts:
            return
        held = self._open(name)
        with tempfile.TemporaryDirectory() as temporary:
            for path, text in unwritten.artifacts.items():
                file = Path(temporary, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            self._confirm()  # `upload` may go past the client
            upload(
                self._uri,
                held.artifact_uri,
                temporary,
                lambda path: self._client.log_artifacts(held.run_id, path),
                self.storage_uri,
            )
        unwritten.artifacts.clear()

    def _log(self, held: _Held, kind: str, entities: Sequence[object], per_call: int) -> None:
        for start in range(0, len(entities), per_call):
            chunk = entities[start : start + per_call]
            _unless_refused(self._client.log_batch, held.run_id, **{kind: chunk})

    def _steps(self, held: _Held, name: str) -> set[int]:
        """The steps that MLflow has of a metric; looked up once, and only if it has any."""
        if name not in held.steps:
            there = self._client.get_metric_history(held.run_id, name) if name in held.metrics else []
            held.steps[name] = {point.step for point in there}
        return held.steps[name]

    def _open(self, name: str, began: float | None = None) -> _Held:
        known = self._look()
        if name not in known:
            tags = {"mlflow.source.name": "ekd", **self._identity}
            if name != PARENT:
                tags[PARENT_TAG] = self.open(PARENT)
            self._known = None  # until there is an answer: without one the run may be there
            run = self._client.create_run(
                self.experiment_id,
                start_time=None if began is None else int(1000 * began),
                tags=tags,
                run_name=self.ekd_run_id if name == PARENT else name,
            )
            known[name] = _Held(run.info.run_id, run.info.artifact_uri)
            self._known = known
        elif known[name].deleted:
            self._warn(
                f"the MLflow run {name} was deleted by somebody; it is restored, because this run goes on"
            )
            self._client.restore_run(known[name].run_id)
            known[name].deleted = False
        return known[name]

    def _look(self) -> dict[str, _Held]:
        """The runs that MLflow has, by name."""
        if self._known is None:
            runs = list(self._search())
            parent = next((run for run in runs if PARENT_TAG not in run.data.tags), None)
            found = [(PARENT, parent)] if parent is not None else []
            for run in runs:
                if parent is not None and run.data.tags.get(PARENT_TAG) == parent.info.run_id:
                    found.append((run.info.run_name, run))
            # The first of a name is kept: not deleted, and the oldest.
            self._known = {name: _held(run) for name, run in reversed(found)}
        return self._known

    def _search(self) -> "Iterator[Run]":
        """All runs with this identity, those that are deleted last, the oldest first."""
        from mlflow.entities import ViewType

        wanted = " and ".join(f"tags.`{tag}` = {_quoted(text)}" for tag, text in self._identity.items())
        for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY):
            token = None
            while True:
                page = self._client.search_runs(
                    [self.experiment_id],
                    wanted,
                    run_view_type=view,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
                yield from page
                if not (token := page.token):
                    break

    def _find_or_create_experiment(self, name: str, location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self._client.create_experiment(name, location)
            except MlflowException:  # another process was first, or it cannot be created at all
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        own_folder(self._uri, experiment.artifact_location, self.storage_uri)
        if experiment.lifecycle_stage == "deleted":
            self._warn(
                f"the MLflow experiment {name} was deleted by somebody; it is restored, because its name "
                "stays taken: to record elsewhere, give the experiment another name"
            )
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id


def _held(run: "Run") -> _Held:
    return _Held(
        run.info.run_id,
        run.info.artifact_uri,
        run.info.status,
        run.info.lifecycle_stage == "deleted",
        dict(run.data.params),
        dict(run.data.tags),
        set(run.data.metrics),
    )


def _unless_refused(write: Callable[..., object], run_id: str, *what: object, **more: object) -> None:
    """Write, unless trying again is useless: MLflow judged the content, or our own code is wrong."""
    try:
        write(run_id, *what, **more)
    except Exception as error:
        refused = getattr(error, "error_code", None) in _REFUSALS or isinstance(
            error, (TypeError, ValueError)
        )
        if not refused:
            raise
        log.warning("MLflow refused %.200s: %s", what or more, redacted(str(error)))


def _quoted(text: str) -> str:
    """`text` as a value of MLflow's search language, which has two quotes and no escape."""
    return f'"{text}"' if "'" in text else f"'{text}'"

"""Finding and creating MLflow runs, so that a resumed `ekd run` has the same ones.

Runs carry the tags `ekd.run_id` and `ekd.instance`. A run whose MLflow id was not stored,
because the process died between its creation and the writing of the manifest, is found by
them and its name again. The instance tells apart runs with the same id: an `ekd run` of the
same experiment into another storage, or again after its files were deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.tracking.address import artifact_location
from orchestrator.tracking.records import MAX_TAG_CHARACTERS, legal_key, shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_ID_TAG = "ekd.run_id"
INSTANCE_TAG = "ekd.instance"
PARENT_TAG = "mlflow.parentRunId"
_PENDING = "pending:"


class Runs:
    """The runs of one `ekd run` in one MLflow experiment.

    Args:
        client: an open client.
        uri: its tracking URI.
        experiment: the MLflow experiment's name; created if there is none.
        ekd_run_id: the `ekd run` that they belong to.
        instance: which of the runs with that id.
        storage_uri: where a new experiment's artifacts may be kept (`artifact_location`).
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        experiment: str,
        ekd_run_id: str,
        instance: str,
        storage_uri: str = "",
    ) -> None:
        self._client = client
        self.ekd_run_id = ekd_run_id
        self._identity = {RUN_ID_TAG: ekd_run_id, INSTANCE_TAG: instance}
        self.experiment_id = self._find_or_create_experiment(
            experiment, artifact_location(uri, experiment, storage_uri)
        )
        self.created: set[str] = set()
        """Runs made by this process: they hold nothing that it does not know of."""
        self._resolved: dict[str, str] = {}

    def parent(self, name: str, run_id: str | None, tags: Mapping[str, str]) -> str:
        """The MLflow id of the `ekd run` itself, RUNNING: reopened where it exists, else created."""
        return self._open(name, run_id, legal_tags(tags), parent=None)

    def child(self, name: str, run_id: str | None, tags: Mapping[str, str], parent: str) -> str:
        """The MLflow id of a training run under `parent`, RUNNING; `name` is unique there."""
        return self._open(name, run_id, {**legal_tags(tags), PARENT_TAG: parent}, parent)

    def postponed_child(self, name: str, parent: str) -> str:
        """A stand-in id for a child that cannot be created now; `resolve` creates it later."""
        return f"{_PENDING}{parent}:{name}"

    def running_children(self, parent: str) -> list[str]:
        """The MLflow ids of those under `parent` that nobody has ended."""
        wanted = f"tags.`{PARENT_TAG}` = '{parent}' and attributes.status = 'RUNNING'"
        return [run.info.run_id for run in self._client.search_runs([self.experiment_id], wanted)]

    def resolve(self, run: str) -> str:
        """The MLflow id behind `run`, which may be a stand-in."""
        if not run.startswith(_PENDING):
            return run
        if run not in self._resolved:
            parent, _, name = run.removeprefix(_PENDING).partition(":")
            self._resolved[run] = self.child(name, None, {}, parent)
        return self._resolved[run]

    def _open(self, name: str, run_id: str | None, tags: dict[str, str], parent: str | None) -> str:
        found = self._stored(run_id) or self._search(name, parent)
        if found is None:
            tags = {"mlflow.source.name": "ekd", **tags, **self._identity}
            run = self._client.create_run(self.experiment_id, tags=tags, run_name=name)
            self.created.add(run.info.run_id)
            return run.info.run_id
        if found.info.lifecycle_stage == "deleted":
            self._client.restore_run(found.info.run_id)
        if found.info.run_id not in self.created:
            self._client.update_run(found.info.run_id, status="RUNNING")
        return found.info.run_id

    def _stored(self, run_id: str | None) -> Run | None:
        """The run with a stored id; None where this store never had it (another store, a new file)."""
        from mlflow.exceptions import MlflowException

        if run_id is None or run_id.startswith(_PENDING):
            return None
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _search(self, name: str, parent: str | None) -> Run | None:
        wanted = " and ".join(f"tags.`{tag}` = {_quoted(text)}" for tag, text in self._identity.items())
        if parent is not None:
            wanted += f" and tags.`{PARENT_TAG}` = '{parent}' and attributes.run_name = {_quoted(name)}"
        oldest_first = ["attributes.start_time ASC"]  # the parent is older than its children
        for run in self._client.search_runs([self.experiment_id], wanted, order_by=oldest_first):
            if run.data.tags.get(PARENT_TAG) == parent:
                return run
        return None

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
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id


def legal_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """`tags` within MLflow's limits on the tags of a run."""
    return {legal_key(key): shortened(str(text), MAX_TAG_CHARACTERS) for key, text in tags.items()}


def _quoted(text: str) -> str:
    """`text` as a value of MLflow's search language, which has two quotes and no escape."""
    return f'"{text}"' if "'" in text else f"'{text}'"

"""Delivering records to MLflow, so that delivering one twice changes nothing.

* a metric value: a step that a run's history already has is not written again, and a value
  whose answer was lost is sent again with its own timestamp, which MLflow recognises;
* a param: params cannot be changed; a value that differs from the one a run has (a setting
  changed before a resume) is kept as the tag `ekd.changed_param.<name>`;
* tags, artifacts, data sets and the status are overwritten with the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from orchestrator.tracking.address import redacted
from orchestrator.tracking.connection import renew_artifact_credentials
from orchestrator.tracking.outbox import VALUES_PER_CALL, Outcome
from orchestrator.tracking.records import Artifact, DatasetInput, Metrics, Params, Record, Status, Tags
from orchestrator.tracking.runs import Runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

Item = TypeVar("Item")

CHANGED_PARAM = "ekd.changed_param."
_PARAMS_PER_CALL = 100
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")


class Writer:
    """Writes records through one client; remembers what each run already holds."""

    def __init__(self, client: MlflowClient, runs: Runs) -> None:
        self._client = client
        self._runs = runs
        self._logged_steps: dict[tuple[str, str], set[int]] = {}
        self._logged_params: dict[str, dict[str, str]] = {}

    def deliver(self, records: Sequence[Record]) -> Outcome:
        """Write `records`; see `Outbox` for which come together. Never raises."""
        try:
            run = self._runs.resolve(records[0].run)
            metrics = [record for record in records if isinstance(record, Metrics)]
            if metrics:
                self._write_metrics(run, metrics)
            else:
                self._write(run, records[0])
        except Exception as error:
            if _is_refusal(error):
                log.warning("the tracking store refused %s: %s", records[0], redacted(str(error)))
                return Outcome.REFUSED
            renew_artifact_credentials()
            log.debug("the tracking store is unreachable: %s", redacted(str(error)))
            return Outcome.UNREACHABLE
        return Outcome.DELIVERED

    def _write(self, run: str, record: Record) -> None:
        from mlflow.entities import Dataset, InputTag, RunTag
        from mlflow.entities import DatasetInput as Input

        match record:
            case Params():
                self._write_params(run, record)
            case Tags():
                self._client.log_batch(run, tags=[RunTag(key, text) for key, text in record.values.items()])
            case DatasetInput():
                dataset = Dataset(
                    record.name,
                    record.digest,
                    record.source_type,
                    record.source,
                    record.schema,
                    record.profile,
                )
                context = InputTag("mlflow.data.context", record.context)
                self._client.log_inputs(run, [Input(dataset, [context])])
            case Artifact():
                folder = os.path.dirname(record.path) or None
                self._client.log_artifact(run, record.file, folder)
            case Status():
                self._client.set_terminated(run, record.status, record.end_time_ms)

    def _write_metrics(self, run: str, records: Sequence[Metrics]) -> None:
        from mlflow.entities import Metric

        fresh: dict[tuple[str, int], Metric] = {}
        for record in records:
            for key, value in record.values.items():
                if record.step not in self._steps(run, key):
                    metric = Metric(key, value, record.timestamp_ms, record.step)
                    fresh.setdefault((key, record.step), metric)
        for chunk in _chunks(fresh.values(), VALUES_PER_CALL):
            self._client.log_batch(run, metrics=chunk)
            for metric in chunk:
                self._steps(run, metric.key).add(metric.step)

    def _steps(self, run: str, key: str) -> set[int]:
        """The steps that the store holds of a metric; asked once, and not of runs made by us."""
        if (run, key) not in self._logged_steps:
            history = [] if run in self._runs.created else self._client.get_metric_history(run, key)
            self._logged_steps[run, key] = {metric.step for metric in history}
        return self._logged_steps[run, key]

    def _write_params(self, run: str, record: Params) -> None:
        from mlflow.entities import Param, RunTag

        if run not in self._logged_params:
            self._logged_params[run] = dict(self._client.get_run(run).data.params)
        logged = self._logged_params[run]
        fresh = {key: text for key, text in record.values.items() if key not in logged}
        changed = {key: text for key, text in record.values.items() if logged.get(key, text) != text}
        for chunk in _chunks(fresh.items(), _PARAMS_PER_CALL):
            self._client.log_batch(run, params=[Param(key, text) for key, text in chunk])
            logged.update(chunk)
        if changed:
            log.warning("run %s: changed since it began, kept as tags: %s", run, ", ".join(sorted(changed)))
        for chunk in _chunks(changed.items(), _PARAMS_PER_CALL):
            self._client.log_batch(run, tags=[RunTag(CHANGED_PARAM + key, text) for key, text in chunk])


def _is_refusal(error: Exception) -> bool:
    """Whether trying again is useless: MLflow judged the content, or our own code is wrong."""
    if getattr(error, "error_code", None) in _REFUSALS:
        return True
    return isinstance(error, (TypeError, ValueError, FileNotFoundError))


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk

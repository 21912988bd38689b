"""A driver that lost its run writes nothing to MLflow: every method of the client is walked."""

from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from orchestrator.pipeline.lease import TakenOver
from orchestrator.tracking.clients import READING, Confirmed
from orchestrator.tracking.run_state import PARENT, Unwritten
from orchestrator.tracking.runs import Runs

METHODS = sorted(
    name for name in dir(MlflowClient) if not name.startswith("_") and callable(getattr(MlflowClient, name))
)
WRITING = (
    "create",
    "delete",
    "set",
    "update",
    "log",
    "restore",
    "rename",
    "finalize",
    "link",
    "transition",
    "copy",
)


def taken_over() -> None:
    raise TakenOver("process 7 on elsewhere has taken this run over")


@pytest.mark.parametrize("name", METHODS)
def test_what_may_write_asks_first_and_what_reads_does_not(name):
    called = []
    client = Confirmed(SimpleNamespace(**{name: lambda *args: called.append(args)}), taken_over)
    if name.startswith(READING):
        assert not name.startswith(WRITING)
        getattr(client, name)(1)
        assert called == [(1,)]
    else:
        with pytest.raises(TakenOver):
            getattr(client, name)(1)
        assert called == []


def test_artifacts_that_go_past_the_client_are_asked_about_too(monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.runs.upload", lambda *args: pytest.fail("it uploads"))
    monkeypatch.setattr(Runs, "_find_or_create_experiment", lambda *args: "1")
    monkeypatch.setattr(Runs, "_open", lambda *args: SimpleNamespace(artifact_uri="s3://b/a", run_id="r"))
    runs = Runs(SimpleNamespace(), "http://mlflow", "digits", "mine", "1", "s3://b", taken_over)
    unwritten = Unwritten()
    unwritten.artifacts["report.html"] = "<p>"
    with pytest.raises(TakenOver):
        runs.write_artifacts(PARENT, unwritten)

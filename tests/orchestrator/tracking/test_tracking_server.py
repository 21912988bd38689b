"""A real `mlflow server` that dies in mid-run and comes back."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from orchestrator.tracking import Tracker, TrackingError, check_tracking
from orchestrator.tracking.run_state import RunState

pytestmark = pytest.mark.slow


class Server:
    """`mlflow server` on a free port of its own, which keeps its port and files over a restart."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", f"{self.folder}/artifacts"]
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(1800):  # a busy machine takes a minute to import MLflow
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    try:
        server.start()
        yield server
    finally:  # also of one that did not answer in time
        server.kill()


def open_run(server):
    return Tracker.open(server.uri, "digits", "run", instance="1")


def steps(tracker, name):
    return sorted(point.step for point in tracker.client.get_metric_history(tracker.child(name), "loss"))


def stored(*steps, status=None):
    """A training run's state, as from the run's storage."""
    state = RunState(status=status)
    for step in steps:
        state.add_metrics({"loss": float(step), "worst": math.nan}, step)
    return state


def test_an_outage_of_the_server_costs_seconds_and_loses_nothing(server):
    check_tracking(server.uri)
    tracker = open_run(server)
    tracker.log_metrics("student", {"loss": 0.0}, 0)
    assert tracker.flush()

    server.kill()
    began = time.monotonic()
    for step in range(1, 50):
        tracker.log_metrics("student", {"loss": float(step), "worst": math.nan}, step)
        tracker.flush()
    tracker.show({"control": RunState(params={"epochs": "3"}, artifacts={"notes/outage.md": "kept"})})
    outage_s = time.monotonic() - began
    assert tracker.waiting
    assert outage_s < 15
    with pytest.raises(TrackingError, match="cannot reach the MLflow server"):
        check_tracking(server.uri)

    server.start()
    assert tracker.close("FINISHED")
    assert steps(tracker, "student") == list(range(50))
    control = tracker.child("control")
    assert tracker.client.get_run(control).data.params == {"epochs": "3"}
    assert [artifact.path for artifact in tracker.client.list_artifacts(control, "notes")] == [
        "notes/outage.md"
    ]
    for run in (tracker.run_id, tracker.child("student"), control):
        assert tracker.client.get_run(run).info.status == "FINISHED"
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 3


def test_a_run_resumed_after_the_server_died_has_the_same_runs_and_every_step_once(server):
    killed = open_run(server)
    for step in range(5):
        killed.log_metrics("student", {"loss": float(step)}, step)
    killed.flush()
    student = killed.child("student")
    server.kill()
    for step in range(5, 8):
        killed.log_metrics("student", {"loss": float(step)}, step)
    assert not killed.close("KILLED")
    began = time.monotonic()
    with pytest.raises(TrackingError, match="cannot open the tracking store") as error:
        open_run(server)
    assert time.monotonic() - began < 15
    assert "\n" not in str(error.value)

    server.start()
    resumed = open_run(server)
    assert (resumed.run_id, resumed.child("student")) == (killed.run_id, student)
    for step in range(6, 10):  # from the last checkpoint on
        resumed.log_metrics("student", {"loss": float(step)}, step)
    resumed.show({"student": stored(*range(10), status="FINISHED")})
    assert resumed.close("FINISHED")
    assert steps(resumed, "student") == list(range(10))
    assert len(resumed.client.search_runs([resumed.experiment_id])) == 2


def test_a_student_is_registered_and_loaded_through_the_server(server, monkeypatch):
    import mlflow.pytorch
    import numpy as np
    import torch

    from orchestrator.registry.logged_model import Recorded
    from orchestrator.registry.registration import register_averaged_student

    tracker = open_run(server)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    registered = register_averaged_student(
        tracker,
        tracker.run_id,
        module,
        images,
        name="through-a-server",
        lineage={},
        description="# A card",
        recorded=Recorded(metrics={"validation/accuracy": 0.9, "validation/nll": 0.3}),
        class_names=list("0123456789"),
    )
    assert registered.aliases == ("champion",)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    network = mlflow.pytorch.load_model("models:/through-a-server@champion")
    pair = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(pair), module(pair))

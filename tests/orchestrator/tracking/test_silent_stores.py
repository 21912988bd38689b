"""A tracking store that says nothing: who waits says for what, and no call waits for longer than it may."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from ekd_train import waiting
from orchestrator.tracking import TrackingError
from orchestrator.tracking.clients import Audible
from orchestrator.tracking.connection import connect, patient

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """It is said after a tenth of a second, and a call to a server takes a second at most."""
    monkeypatch.setattr(waiting, "FIRST_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_server_that_accepts_and_never_answers_is_named(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(TrackingError):
            connect(uri)
    assert f"waiting for the tracking store {uri}, which does not answer" in caplog.text


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="needs Linux")
def test_who_holds_the_file_of_a_database_is_named(tmp_path, caplog, monkeypatch):
    file = tmp_path / "mlflow.db"
    client = connect(f"sqlite:///{file}")
    command = [sys.executable, "-I", "-S", "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"

        def end_it_once_it_is_named() -> None:
            end = time.monotonic() + 300
            while time.monotonic() < end and f"waiting for MLflow's file {file}" not in caplog.text:
                time.sleep(0.05)
            holder.kill()

        threading.Thread(target=end_it_once_it_is_named, daemon=True).start()
        client.search_experiments()
    assert f"waiting for MLflow's file {file}, which is locked by process {holder.pid} (python" in caplog.text


class Limits:
    """A client whose methods say how long a request may take."""

    def get_run(self) -> str | None:
        return os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")

    log_artifacts = download_artifacts = get_run


def test_files_alone_may_take_minutes():
    client = Audible(Limits(), "http://mlflow.lan:5000")
    assert [client.get_run(), client.log_artifacts(), client.download_artifacts()] == ["1", "300", "300"]
    with patient("http://mlflow.lan:5000"):
        assert (Limits().get_run(), os.environ["MLFLOW_TRACKING_URI"]) == ("300", "http://mlflow.lan:5000")
    assert Limits().get_run() == "1"

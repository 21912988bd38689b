"""`mlflow models serve` answers over HTTP from an interpreter that cannot import this project."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from ekd_train.models import build_model
from orchestrator.registry import register_averaged_student

pytestmark = pytest.mark.slow

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("ekd_train", "orchestrator", "tune_spaces"):
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Blocked())
"""
"""As `sitecustomize`, which every Python process of the server runs when it starts."""


@pytest.fixture
def served(tracker, store_uri, tmp_path):
    """A registered student with its scoring address, served by processes without this project."""
    torch.manual_seed(0)
    student = build_model("wide_resnet", depth=10, num_classes=10, in_channels=1, stem_channels=4).eval()
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    version = register_averaged_student(
        tracker,
        tracker.run_id,
        student,
        images,
        name="served",
        tags={},
        description="",
        validation_metrics={"accuracy": 0.9, "nll": 0.3},
    )
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # mlflow finds uvicorn on the PATH, which need not name this interpreter's environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": store_uri, "PYTHONPATH": str(tmp_path), "PATH": path}
    check = subprocess.run(
        [sys.executable, "-c", "import ekd_train"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is not installed here" in check.stderr
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", version.uri, "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=file, stderr=file, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        yield student, address
    finally:
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_requests_of_any_batch_are_answered_with_the_students_logits(served):
    student, address = served
    for batch in (1, 5):
        images = np.random.default_rng(batch).random((batch, 1, 8, 8), dtype=np.float32)
        request = urllib.request.Request(
            f"{address}/invocations",
            data=json.dumps({"inputs": images.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            logits = np.array(json.load(answer)["predictions"])
        with torch.no_grad():
            expected = student(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4)

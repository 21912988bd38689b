"""`mlflow models serve` answers over HTTP from an environment with the model's own requirements alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch

from ekd_train.models import build_model
from orchestrator.registry.logged_model import Recorded
from orchestrator.registry.registration import register_averaged_student

# A torch for GPUs is several GB, which pip may have to fetch.
pytestmark = [pytest.mark.slow, pytest.mark.by_hand, pytest.mark.timeout(1200)]

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"
INSTALLING_S = 720


@pytest.fixture
def environment_of():
    """Makes an environment of a requirements file; it is removed afterwards, for it is large."""
    with tempfile.TemporaryDirectory() as temporary:

        def make(requirements: Path) -> Path:
            folder = Path(temporary) / "venv"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            python = folder / "bin" / "python"
            install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
            install += ["--constraint", CONSTRAINTS, "--requirement", requirements]
            try:
                done = subprocess.run(
                    install,
                    env=elsewhere(),
                    capture_output=True,
                    text=True,
                    timeout=INSTALLING_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"pip did not install {requirements.read_text().split()} in {INSTALLING_S} s")
            if done.returncode:
                wrong = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                pytest.skip(f"pip cannot install {requirements.read_text().split()}: {wrong or done.stderr}")
            return python

        yield make


def elsewhere() -> dict[str, str]:
    """This process's variables, without those that let another interpreter find our code."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture
def served(tracker, store_uri, tmp_path, environment_of):
    """A registered student with its scoring address, served from an environment made for it."""
    torch.manual_seed(0)
    student = build_model("wide_resnet", depth=10, num_classes=10, in_channels=1, stem_channels=4).eval()
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    version = register_averaged_student(
        tracker,
        tracker.run_id,
        student,
        images,
        name="served",
        lineage={},
        description="",
        recorded=Recorded(metrics={"validation/accuracy": 0.9, "validation/nll": 0.3}),
        class_names=list("0123456789"),
    )
    client = tracker.client
    place = unquote(urlparse(client.get_model_version_download_uri(version.name, version.version)).path)
    python = environment_of(Path(place) / "requirements.txt")
    # mlflow finds uvicorn on the PATH.
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = elsewhere() | {"MLFLOW_TRACKING_URI": store_uri, "PATH": path}
    for package in ("ekd_train", "orchestrator", "torchvision", "ray"):
        tried = subprocess.run(
            [python, "-c", f"import {package}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert b"ModuleNotFoundError" in tried.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
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

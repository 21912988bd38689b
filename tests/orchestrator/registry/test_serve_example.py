"""`docs/examples/serve_student.py`: wrong requests are told what is wrong with them, and spoil no batch."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import ray
import torch

from ekd_train.models import build_model
from orchestrator.registry.logged_model import Recorded
from orchestrator.registry.registration import register_averaged_student

pytestmark = pytest.mark.attack

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "serve_student.py"
SHAPE = (1, 8, 8)
GOOD = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)).tolist()
WRONG = {
    "no JSON": b"{",
    "not an object": b"[1]",
    "no image": b"{}",
    "ragged": json.dumps({"image": [[[0.0] * 8] * 7 + [[0.0] * 3]]}).encode(),
    "other height": json.dumps({"image": [[[0.0] * 8] * 7]}).encode(),
    "a batch": json.dumps({"image": [GOOD]}).encode(),
    "text": json.dumps({"image": "a picture"}).encode(),
    "nothing": json.dumps({"image": None}).encode(),
    "grey levels to 255": json.dumps({"image": (torch.ones(SHAPE) * 255).tolist()}).encode(),
    "not a number": json.dumps({"image": (torch.ones(SHAPE) * float("nan")).tolist()}).encode(),
}


@pytest.fixture
def example(monkeypatch) -> ModuleType:
    """The module as it is, with decorators that do nothing: Ray Serve is an extra of Ray's."""

    def undecorated(*_, **__):
        return lambda decorated: decorated

    stand_in = SimpleNamespace(deployment=lambda **_: _bindable, batch=undecorated)
    monkeypatch.setattr(ray, "serve", stand_in, raising=False)
    spec = spec_from_file_location("serve_student", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bindable(decorated):
    decorated.bind = classmethod(lambda cls, *arguments: (cls, arguments))
    return decorated


@pytest.fixture
def served(example):
    """A student without its loading, whose batches are of one."""
    made = object.__new__(example.Student)
    made.shape, made.network = SHAPE, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    batch = made.probabilities

    async def alone(image):
        return (await batch([image]))[0]

    made.probabilities = alone
    return made


def ask(student, body: bytes):
    async def content():
        return json.loads(body)

    return asyncio.run(student(SimpleNamespace(json=content)))


@pytest.mark.parametrize("which", WRONG)
def test_a_wrong_request_is_answered_with_what_is_wrong(served, which):
    answer = ask(served, WRONG[which])
    assert answer.status_code == 400
    assert json.loads(answer.body)["error"]


def test_a_right_request_is_answered_with_probabilities(served):
    answer = ask(served, json.dumps({"image": GOOD}).encode())
    assert answer.status_code == 200
    expected = served.network(torch.tensor([GOOD])).softmax(-1)[0]
    assert torch.allclose(torch.tensor(json.loads(answer.body)["probabilities"]), expected)


DRIVER = """
import sys
import ray
from ray import serve
from docs.examples.serve_student import student
ray.init(address="local", num_cpus=2, include_dashboard=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(student)
print("serving", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""
"""`serve run docs.examples.serve_student:student` on a port of its own, until its stdin is closed."""


@pytest.mark.slow
def test_wrong_requests_among_right_ones_spoil_no_batch(tracker, store_uri, tmp_path):
    torch.manual_seed(0)
    student = build_model("wide_resnet", depth=10, num_classes=10, in_channels=1, stem_channels=4).eval()
    examples = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    version = register_averaged_student(
        tracker,
        tracker.run_id,
        student,
        examples,
        name="ray-served",
        lineage={},
        description="",
        recorded=Recorded(metrics={"validation/accuracy": 0.9, "validation/nll": 0.3}),
        class_names=list("0123456789"),
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": store_uri, "MODEL_URI": version.uri}
    environment["RAY_worker_niceness"] = "0"  # else whatever else the machine does goes first
    log = tmp_path / "serve.log"
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(port)],
            env=environment,
            cwd=EXAMPLE.parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert server.stdout is not None
        assert any(line == "serving\n" for line in server.stdout), log.read_text()

        def post(body: bytes) -> tuple[int, dict]:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=body)
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        right = torch.rand(20, *SHAPE)
        bodies = [json.dumps({"image": image.tolist()}).encode() for image in right]
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(post, [*WRONG.values(), *bodies, *WRONG.values()]))
        wrong = len(WRONG)
        assert {status for status, _ in (*answers[:wrong], *answers[-wrong:])} == {400}
        assert {status for status, _ in answers[wrong:-wrong]} == {200}
        got = torch.tensor([answer["probabilities"] for _, answer in answers[wrong:-wrong]])
        with torch.no_grad():
            torch.testing.assert_close(got, student(right).softmax(-1), atol=1e-4, rtol=1e-4)
    finally:
        server.communicate(timeout=300)  # closes its stdin, at which it ends

"""What is exported from a registry: a SQLite file and a folder, where weights can be changed by hand."""

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ekd_train.models import build_model
from ekd_train.settings import Architecture
from orchestrator.cli.main import main
from orchestrator.registry.exported_model import ARCHIVE_TAG
from orchestrator.registry.logged_model import Recorded
from orchestrator.registry.provenance import ARCHITECTURE_TAG
from orchestrator.registry.registration import register_averaged_student

pytestmark = [pytest.mark.attack, pytest.mark.slow]

SERVING = Path(__file__).parents[3] / "docs" / "serving.md"
SHAPE = (1, 32, 32)
CLASSES = ["ant", "bee", "cat", "dog"]
ARCHITECTURE = {"name": "resnet18", "small_images": True}


@pytest.fixture
def student():
    torch.manual_seed(0)
    made = build_model(**ARCHITECTURE, num_classes=4, in_channels=1, image_size=32, mean=[0.286], std=[0.353])
    made.train()(torch.rand(8, *SHAPE))
    return made.eval()


@pytest.fixture
def uri(tracker, student, request) -> str:
    """Of `student`, registered with its architecture under the test's own name."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    version = register_averaged_student(
        tracker,
        tracker.run_id,
        student,
        np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32),
        name=name,
        lineage={},
        description="",
        recorded=Recorded(
            {ARCHITECTURE_TAG: json.dumps(Architecture(**ARCHITECTURE).model_dump(exclude_none=True))},
            metrics={"validation/accuracy": 0.9, "validation/nll": 0.3},
        ),
        class_names=CLASSES,
    )
    return version.uri


def registered_file(tracker, uri: str) -> Path:
    """The program that the registry serves."""
    name, version = uri.removeprefix("models:/").split("/")
    place = urlparse(tracker.client.get_model_version_download_uri(name, version))
    (file,) = Path(unquote(place.path)).rglob("*.pt2")
    return file


def set_archive_tag(tracker, uri: str, file: Path) -> None:
    """As somebody would who may write to the registry itself."""
    name, version = uri.removeprefix("models:/").split("/")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    tracker.client.set_model_version_tag(name, version, ARCHIVE_TAG, digest)


def flip_a_byte(file: Path, tensor: torch.Tensor) -> None:
    """One bit, amid the bytes of `tensor`."""
    content = bytearray(file.read_bytes())
    content[content.index(tensor.detach().numpy().tobytes()) + 3] ^= 1
    file.write_bytes(content)


@pytest.fixture
def export(tracker, tmp_path, capsys):
    def export_it(source: str, form: str, file: str) -> tuple[int, str, str]:
        capsys.readouterr()
        words = ["--format", form, "--output", str(tmp_path / file), "--tracking", tracker.uri]
        return main(["export", source, *words]), *capsys.readouterr()

    return export_it


def test_every_form_of_a_registered_student_answers_like_it_and_warns_of_nothing(
    uri, student, export, tmp_path
):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    images = torch.rand(3, *SHAPE)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training mode.*")
        for form, file in (("pt2", "s.pt2"), ("onnx", "s.onnx"), ("state-dict", "s.safetensors")):
            code, out, err = export(uri, form, file)
            assert (code, out.splitlines()[-1]) == (0, str(tmp_path / file)), err
            assert "training mode" not in err
    expected = student(images)
    pt2 = torch.export.load(tmp_path / "s.pt2").module()
    torch.testing.assert_close(pt2(images), expected, atol=1e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
    for file in ("s.pt2", "s.onnx", "s.safetensors"):
        described = json.loads((tmp_path / f"{file}.json").read_text())
        assert described["class_names"] == CLASSES
    described = described["build_model"]
    assert (described["mean"], described["std"]) == ([0.286], [0.353])
    network = build_model(**described).eval()
    network.network.load_state_dict(load_file(tmp_path / "s.safetensors"))
    torch.testing.assert_close(network(images), expected)


def test_changed_weights_are_refused_with_their_own_words(tracker, uri, student, export, tmp_path):
    flip_a_byte(registered_file(tracker, uri), student.network.conv1.weight)
    code, _, err = export(uri, "pt2", "student.pt2")
    assert code == 1
    assert err.startswith(f"ekd: {uri}: the SHA-256 of its data/model.pt2 is ")
    assert err.count("\n") == 1
    assert "the file was changed since, and is not loaded" in err
    assert "tracking store" not in err
    assert list(tmp_path.glob("student*")) == []


def test_files_that_cannot_be_read_are_not_blamed_on_the_tracking_store(tracker, uri, export, tmp_path):
    file = registered_file(tracker, uri)
    file.write_bytes(file.read_bytes()[:5000])
    set_archive_tag(tracker, uri, file)
    code, _, err = export(uri, "pt2", "student.pt2")
    assert code == 1
    assert err.startswith(f"ekd: {uri}: the registered files cannot be read: ")
    assert err.count("\n") == 1
    assert "tracking store" not in err


@pytest.mark.parametrize("changed", [False, True])
def test_the_documented_lines_notice_changed_weights(tracker, uri, student, tmp_path, changed):
    if changed:
        flip_a_byte(registered_file(tracker, uri), student.network.conv1.weight)
    (lines,) = re.findall(r"```python\n(import hashlib\n.*?)```", SERVING.read_text(), re.DOTALL)
    assert "ekd_train" not in lines
    assert "orchestrator" not in lines
    (tmp_path / "verify.py").write_text(lines.replace("ekd-digits", uri.split("/")[1]))
    here = {**os.environ, "MLFLOW_TRACKING_URI": tracker.uri}
    done = subprocess.run(
        [sys.executable, "-I", "verify.py"],
        cwd=tmp_path,
        env=here,
        capture_output=True,
        text=True,
        check=False,
    )
    if changed:
        assert done.returncode == 1
        assert "this is not the file that was registered" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_a_version_without_the_hash_of_its_file_is_not_loaded(tracker, uri, export):
    name, version = uri.removeprefix("models:/").split("/")
    tracker.client.delete_model_version_tag(name, version, ARCHIVE_TAG)
    code, _, err = export(uri, "pt2", "student.pt2")
    assert code == 2
    assert err.startswith(f"ekd: {uri}: has no tag {ARCHIVE_TAG} to compare its file with, and is not loaded")
    assert "export the run that made it: `ekd export " in err

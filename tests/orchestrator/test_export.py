"""Exported students: the same function, from the same weights, in the stock class."""

import json
import resource
import sys
from pathlib import Path

import pytest
import torch

from ekd_train.models import build_model
from ekd_train.models.wide_resnet import WideResNet
from orchestrator import export as module
from orchestrator.experiment import ExperimentError, build_experiment
from orchestrator.export import Source, export_network
from orchestrator.export_source import from_run
from orchestrator.registry import ExportError, weights_sha256
from orchestrator.storage import open_storage

SHAPE = (1, 8, 8)


def a_student(name="wide_resnet", **architecture):
    torch.manual_seed(0)
    network = build_model(
        name, num_classes=4, in_channels=1, image_size=32, mean=[0.3], std=[0.5], **architecture
    )
    return network.eval()


def a_source(network, shape=SHAPE):
    return Source(network, shape, weights_sha256(network), "here")


@pytest.fixture
def student():
    return a_student(depth=10, stem_channels=4)


@pytest.fixture
def images():
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_pt2_file_answers_like_the_network_for_any_batch(student, images, tmp_path):
    exported = export_network(a_source(student), "pt2", tmp_path / "a" / "student.pt2")
    loaded = torch.export.load(exported.path).module()
    assert torch.allclose(loaded(images), student(images), atol=1e-5)


@pytest.mark.slow
def test_an_onnx_file_answers_like_the_network_for_any_batch(student, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    exported = export_network(a_source(student), "onnx", tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), student(images), atol=1e-4)


@pytest.mark.parametrize("name", ["student.pt", "student.safetensors"])
def test_a_state_dict_loads_into_the_stock_wide_resnet(student, images, tmp_path, name):
    path = export_network(a_source(student), "state-dict", tmp_path / name).path
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file as load
    else:
        load = torch.load
    stock = WideResNet(4, depth=10, stem_channels=4, in_channels=1)
    stock.load_state_dict(load(path))
    assert torch.equal(stock.eval()(student.normalise(images)), student(images))


def test_a_state_dict_loads_into_torchvisions_own_class(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    student = build_model("resnet18", num_classes=4, in_channels=3, image_size=32).eval()
    path = export_network(a_source(student, (3, 32, 32)), "state-dict", tmp_path / "student.pt").path
    stock = resnet18(num_classes=4)
    stock.load_state_dict(torch.load(path, weights_only=True))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(stock.eval()(images), student(images))


def test_a_file_that_is_another_function_is_refused_and_not_left_behind(student, tmp_path, monkeypatch):
    def wrong(network, shape, path):
        path.write_bytes(b"something")
        return lambda images: network(images) + 0.01

    monkeypatch.setitem(module._FORMS, "pt2", wrong)
    with pytest.raises(ExportError, match="differ by"):
        export_network(a_source(student), "pt2", tmp_path / "student.pt2")
    assert list(tmp_path.iterdir()) == []


def test_without_its_library_onnx_says_what_to_install(student, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExperimentError, match="ekd\\[export\\]"):
        export_network(a_source(student), "onnx", tmp_path / "student.onnx")


@pytest.mark.parametrize(
    ("form", "name"), [("pt2", "x.pt2"), ("state-dict", "x.pt"), ("state-dict", "x.safetensors")]
)
def test_a_disk_without_room_is_an_error_that_names_the_file_and_nothing_is_left(
    student, tmp_path, form, name
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(ExportError, match=f"--output '.*{name}': cannot be written"):
            export_network(a_source(student), form, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["", ".", "/", "a folder", "/dev/null", "a file/x", "x" * 300, "\udc80"])
def test_what_no_file_can_be_written_to_is_refused_before_anything_is_written(
    student, tmp_path, monkeypatch, output
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").touch()
    with pytest.raises(ExperimentError, match="--output"):
        export_network(a_source(student), "pt2", Path(output))
    assert {path.name for path in tmp_path.iterdir()} == {"a folder", "a file"}


@pytest.mark.slow
def test_any_name_will_do_for_a_pt2_file(student, images, tmp_path, capfd):
    done = export_network(a_source(student), "pt2", tmp_path / "student.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["student.bin"]
    with done.path.open("rb") as file:
        assert torch.allclose(torch.export.load(file).module()(images), student(images), atol=1e-5)
    assert "archive" not in capfd.readouterr().err


def leave_run(folder, architecture, student):
    """What an averaged run leaves in `folder`, as far as an export reads it."""
    from ekd_train.networks import save_network

    storage = open_storage(str(folder))
    experiment = build_experiment({"name": "x", "student": {"architecture": architecture}})
    storage.write("experiment.json", json.dumps(experiment.resolved()).encode())
    data = {"num_classes": 4, "image_shape": [1, 8, 8], "mean": [0.3], "std": [0.5]}
    stages = {
        "prepare": {"outputs": {"data": data}},
        "average": {"outputs": {"weights_sha256": weights_sha256(student)}},
    }
    storage.write("manifest.json", json.dumps({"stages": stages}).encode())
    save_network(storage, "averaged", student, {"identity": "x"})
    return storage


@pytest.fixture
def run(student, tmp_path):
    return leave_run(tmp_path / "run", {"name": "wide_resnet", "depth": 10, "stem_channels": 4}, student)


def test_a_run_is_exported_from_its_storage_alone(run, student, images):
    source = from_run(run)
    assert source.image_shape == SHAPE
    assert torch.equal(source.network(images), student(images))


def test_weights_that_were_changed_since_are_not_exported(run, student):
    from ekd_train.networks import save_network

    with torch.no_grad():
        student.network.linear.bias.add_(1)
    save_network(run, "averaged", student, {"identity": "x"})
    with pytest.raises(ExportError, match="SHA-256"):
        from_run(run)


def test_a_run_without_an_averaged_student_is_wrong_input(run):
    run.write("manifest.json", json.dumps({"stages": {}}).encode())
    with pytest.raises(ExperimentError, match="no averaged student"):
        from_run(run)


def test_a_partial_file_never_has_the_files_name(student, tmp_path, monkeypatch):
    def dies(network, shape, path: Path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(module._FORMS, "pt2", dies)
    with pytest.raises(KeyboardInterrupt):
        export_network(a_source(student), "pt2", tmp_path / "student.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_state_dict_of_a_pruned_student_comes_with_the_lines_that_build_it(tmp_path, capsys):
    from orchestrator.cli import main

    architecture = {"name": "resnet", "depth": 8, "stem_channels": 4, "pruned": 0.5}
    pruned = a_student(**architecture)
    leave_run(tmp_path / "runs" / "mine", architecture, pruned)
    file = tmp_path / "student.pt"
    arguments = ["--format", "state-dict", "--output", str(file), "--storage", str(tmp_path / "runs")]
    assert main(["export", "mine", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(file)
    code = "\n".join(lines[lines.index("import torch") : -1]).replace("student.pt", str(file))
    made: dict = {}
    exec(code, made)
    images = torch.rand(3, *SHAPE)
    assert torch.equal(made["network"].eval()(images), pruned(images))

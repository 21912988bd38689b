"""Exported students: the same function, from the same weights, in the stock class."""

import json
import re
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from training_runs import a_description

from ekd_train.data.description import ImageSpec
from ekd_train.models import build_model
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import Architecture
from orchestrator.cli.main import main
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import build_experiment
from orchestrator.export import formats as module
from orchestrator.export.formats import Source, export_network, format_of
from orchestrator.export.source import from_run
from orchestrator.pipeline.manifest import Manifest
from orchestrator.registry.exported_model import ExportError
from orchestrator.registry.provenance import weights_sha256
from orchestrator.storage import open_storage

SHAPE = (1, 8, 8)


WRN = {"name": "wide_resnet", "depth": 10, "stem_channels": 4}


def a_student(architecture=WRN, shape=SHAPE):
    """With statistics of its own in every batch norm, and a normalisation that matters."""
    torch.manual_seed(0)
    channels, size, _ = shape
    mean, std = [0.3, 0.4, 0.55][:channels], [0.5, 0.2, 0.3][:channels]
    network = build_model(
        **architecture, num_classes=4, in_channels=channels, image_size=size, mean=mean, std=std
    )
    network.train()(torch.rand(8, *shape))
    return network.eval()


def a_source(network, architecture=WRN, shape=SHAPE):
    normalise = network.normalise
    spec = ImageSpec(
        num_classes=4,
        image_shape=shape,
        mean=normalise.mean.flatten().tolist(),
        std=normalise.std.flatten().tolist(),
    )
    return Source(
        network, weights_sha256(network), "here", architecture and Architecture(**architecture), spec
    )


@pytest.fixture
def student():
    return a_student()


@pytest.fixture
def images():
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_pt2_file_answers_like_the_network_for_any_batch(student, images, tmp_path):
    exported = export_network(a_source(student), "pt2", tmp_path / "a" / "student.pt2")
    loaded = torch.export.load(exported.path).module()
    assert torch.allclose(loaded(images), student(images), atol=1e-5)


GREY, COLOUR = (1, 32, 32), (3, 32, 32)
RESNET18 = {"name": "resnet18"}
STUDENTS = {
    "wide_resnet": (WRN | {"width": 2.0}, COLOUR),
    "resnet, grey": ({"name": "resnet", "depth": 8, "width": 0.5, "stem_channels": 8}, SHAPE),
    "resnet18": (RESNET18, COLOUR),
    "resnet18, grey": (RESNET18, GREY),
    "resnet18, small images": (RESNET18 | {"small_images": True}, COLOUR),
    "resnet18, small images, grey": (RESNET18 | {"small_images": True}, GREY),
    "mobilenet_v2, small images, grey": ({"name": "mobilenet_v2", "small_images": True}, GREY),
    "vit_b_32, grey": ({"name": "vit_b_32"}, GREY),
    "resnet, pruned": ({"name": "resnet", "depth": 8, "stem_channels": 4, "pruned": 0.5}, SHAPE),
    "resnet18, pruned, small images, grey": (RESNET18 | {"small_images": True, "pruned": 0.75}, GREY),
    "timm, grey": ({"name": "timm/resnet10t"}, GREY),
}
"""Architectures with the shape of their images."""


@pytest.mark.slow
@pytest.mark.parametrize("which", ["wide_resnet", "resnet18, small images, grey", "resnet, pruned"])
def test_an_onnx_file_answers_like_the_network_for_any_batch(which, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    architecture, shape = STUDENTS[which]
    student, images = a_student(architecture, shape), torch.rand(5, *shape)
    exported = export_network(a_source(student, architecture, shape), "onnx", tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), student(images), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["resnet18, small images, grey", "resnet18, pruned, small images, grey"])
def test_a_pt2_file_of_a_library_network_answers_like_it(which, tmp_path):
    architecture, shape = STUDENTS[which]
    student, images = a_student(architecture, shape), torch.rand(5, *shape)
    exported = export_network(a_source(student, architecture, shape), "pt2", tmp_path / "student.pt2")
    assert torch.allclose(torch.export.load(exported.path).module()(images), student(images), atol=1e-4)


def loaded(file: Path) -> torch.nn.Module:
    """The network of an exported state dict, built and filled as docs/serving.md shows."""
    network = build_model(**json.loads(Path(f"{file}.json").read_text())["build_model"]).eval()
    weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    network.network.load_state_dict(weights)
    return network


@pytest.mark.parametrize("which", STUDENTS)
def test_a_state_dict_loads_into_the_network_that_its_sidecar_describes(which, tmp_path):
    if which.startswith("timm"):
        pytest.importorskip("timm", reason="needs the extra `timm`")
    architecture, shape = STUDENTS[which]
    student, images = a_student(architecture, shape), torch.rand(3, *shape)
    source = a_source(student, architecture, shape)
    exported = export_network(source, "state-dict", tmp_path / "student.safetensors")
    torch.testing.assert_close(loaded(exported.path)(images), student(images))


def test_the_page_loads_a_torchvision_students_weights_without_this_project(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/serving.md").read_text()
    (lines,) = re.findall(
        r"```python\n(import json\nfrom pathlib import Path\nimport torch\n.*?)```", page, re.DOTALL
    )
    assert "ekd_train" not in lines
    architecture, shape = STUDENTS["resnet18"]
    student, images = a_student(architecture, shape), torch.rand(3, *shape)
    source = a_source(student, architecture, shape)
    export_network(source, "state-dict", tmp_path / "student.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    torch.testing.assert_close(names["network"](images), student(images))


def test_a_grey_small_image_student_fits_torchvisions_resnet18_with_another_stem(tmp_path):
    from torchvision.models import resnet18

    architecture, shape = STUDENTS["resnet18, small images, grey"]
    student, images = a_student(architecture, shape), torch.rand(3, *shape)
    path = export_network(a_source(student, architecture, shape), "state-dict", tmp_path / "student.pt").path
    stock = resnet18(num_classes=4)
    stock.conv1 = torch.nn.Conv2d(1, 64, 3, padding=1, bias=False)
    stock.maxpool = torch.nn.Identity()
    stock.load_state_dict(torch.load(path))
    torch.testing.assert_close(stock.eval()((images - 0.3) / 0.5), student(images))


@pytest.mark.parametrize("which", ["wide_resnet", "resnet, pruned"])
@pytest.mark.parametrize("file", ["student.pt", "student.safetensors"])
def test_a_runs_student_is_exported_as_a_state_dict_with_its_sidecar(which, file, tmp_path, capsys):
    architecture, shape = STUDENTS[which]
    student, images = a_student(architecture, shape), torch.rand(3, *shape)
    leave_run(tmp_path / "runs" / "mine", architecture, student, shape)
    arguments = ["--format", "state-dict", "--output", str(tmp_path / file)]
    assert main(["export", "mine", *arguments, "--storage", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / file)
    assert f"{tmp_path / file}.json" in printed[-2]
    torch.testing.assert_close(loaded(tmp_path / file)(images), student(images))


@pytest.mark.parametrize("there", ["student.safetensors", "student.safetensors.json"])
def test_a_file_that_is_there_is_replaced_only_where_that_is_asked_for(there, tmp_path, capsys):
    architecture, shape = STUDENTS["wide_resnet"]
    leave_run(tmp_path / "runs" / "mine", architecture, a_student(architecture, shape), shape)
    output, mine = tmp_path / "student.safetensors", tmp_path / there
    mine.write_text("mine")
    arguments = ["export", "mine", "--output", str(output), "--storage", str(tmp_path / "runs")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "is there already; --overwrite replaces both" in said
    assert there in said
    assert mine.read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"runs", there}
    assert main([*arguments, "--overwrite"]) == 0
    assert mine.read_bytes() != b"mine"


def test_the_sidecar_of_a_state_dict_says_what_the_file_is(student, tmp_path):
    source = replace(a_source(student), class_names=["a", "b", "c", "d"])
    exported = export_network(source, "state-dict", tmp_path / "student.safetensors")
    assert exported.sidecar == tmp_path / "student.safetensors.json"
    described = json.loads(exported.sidecar.read_text())
    made = described.pop("build_model")
    assert made.pop("mean") == pytest.approx([0.3])
    assert made == Architecture(**WRN).model_dump(exclude_none=True, exclude={"options"}) | {
        "num_classes": 4,
        "in_channels": 1,
        "image_size": 8,
        "std": [0.5],
    }
    assert described.keys() == {"class_names", "image_shape", "weights_sha256"}


def test_every_file_has_beside_it_the_classes_in_the_order_of_its_logits(student, tmp_path, monkeypatch):
    monkeypatch.setitem(module._FORMS, "onnx", lambda source, path: source.network)  # onnxruntime is an extra
    source = replace(a_source(student), class_names=["a", "b", "c", "d"])
    for form in get_args(module.Format):
        exported = export_network(source, form, tmp_path / f"student.{form}")
        described = json.loads(Path(f"{exported.path}.json").read_text())
        assert described["class_names"] == ["a", "b", "c", "d"]
        assert described["image_shape"] == list(SHAPE)
        assert described["weights_sha256"] == weights_sha256(student)


@pytest.mark.parametrize("spoil", ["architecture", "mean"])
def test_a_state_dict_that_does_not_give_the_student_again_is_refused(student, tmp_path, spoil):
    source = a_source(student)
    if spoil == "mean":
        source = replace(source, spec=source.spec.model_copy(update={"mean": (0.0,)}))
    else:
        source = replace(source, architecture=Architecture(**WRN | {"stem_channels": 8}))
    with pytest.raises(ExportError, match=r"do not fit the network|differ by"):
        export_network(source, "state-dict", tmp_path / "student.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_of_a_student_whose_architecture_nobody_recorded_is_refused(student, tmp_path):
    with pytest.raises(ExperimentError, match=r"no tag ekd\.architecture .*`ekd export RUN_ID`"):
        export_network(a_source(student, architecture=None), "state-dict", tmp_path / "student.pt")


def test_a_file_that_is_another_function_is_refused_and_not_left_behind(student, tmp_path, monkeypatch):
    def wrong(source, path):
        path.write_bytes(b"something")
        return lambda images: source.network(images) + 0.01

    monkeypatch.setitem(module._FORMS, "pt2", wrong)
    with pytest.raises(ExportError, match="differ by"):
        export_network(a_source(student), "pt2", tmp_path / "student.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "wanted", "form"),
    [
        ("student.onnx", None, "onnx"),
        ("student.safetensors", None, "state-dict"),
        ("student.pt", None, "pt2"),
        ("student", None, "pt2"),
        ("student.pt", "state-dict", "state-dict"),
    ],
)
def test_a_files_name_says_its_format_unless_somebody_else_does(name, wanted, form):
    assert format_of(Path(name), wanted) == form


@pytest.mark.parametrize(("name", "wanted"), [("a.onnx", "pt2"), ("a.safetensors", "onnx")])
def test_a_name_of_another_format_is_refused_before_anything_is_read(name, wanted, capsys, tmp_path):
    words = ["export", "models:/nobody/1", "--format", wanted, "--output", str(tmp_path / name)]
    assert main(words) == 2
    assert f"not of --format {wanted}; change one of them" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


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
    assert {path.name for path in tmp_path.iterdir()} == {"student.bin", "student.bin.json"}
    with done.path.open("rb") as file:
        assert torch.allclose(torch.export.load(file).module()(images), student(images), atol=1e-5)
    assert "archive" not in capfd.readouterr().err


def leave_run(folder, architecture, student, shape=SHAPE):
    """What an averaged run leaves in `folder`, as far as an export reads it."""
    from ekd_train.persistence.networks import save_average

    storage = open_storage(str(folder))
    experiment = build_experiment({"name": "x", "student": {"architecture": architecture}})
    spec = a_source(student, shape=shape).spec
    manifest = Manifest.open(storage, experiment, "x", "f", "code")
    manifest.finish("prepare", 1.0, {"data": a_description(**spec.model_dump())})
    made = {"network": "networks/averaged", "weights_sha256": weights_sha256(student)}
    manifest.finish("average", 1.0, made)
    save_average(storage, student, NetworkRecord(identity="x"))
    return storage


@pytest.fixture
def run(student, tmp_path):
    return leave_run(tmp_path / "run", WRN, student)


def test_a_run_is_exported_from_its_storage_alone(run, student, images):
    source = from_run(run)
    assert source.spec.image_shape == SHAPE
    assert torch.equal(source.network(images), student(images))


def test_weights_that_were_changed_since_are_not_exported(run, student):
    from ekd_train.persistence.networks import save_average

    with torch.no_grad():
        student.network.linear.bias.add_(1)
    save_average(run, student, NetworkRecord(identity="x"))
    with pytest.raises(ExportError, match="SHA-256"):
        from_run(run)


def test_a_run_without_an_averaged_student_is_wrong_input(run):
    content = json.loads(run.read("manifest.json"))
    del content["stages"]["average"]
    run.write("manifest.json", json.dumps(content).encode())
    with pytest.raises(ExperimentError, match="no averaged student"):
        from_run(run)


def test_a_partial_file_never_has_the_files_name(student, tmp_path, monkeypatch):
    def dies(source, path: Path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(module._FORMS, "pt2", dies)
    with pytest.raises(KeyboardInterrupt):
        export_network(a_source(student), "pt2", tmp_path / "student.pt2")
    assert list(tmp_path.iterdir()) == []

"""Published weights, driven through their caches; registered ones; and where there is nothing."""

import io
import socket
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import DenseNet121_Weights, ResNet18_Weights, get_model

from ekd_train.data import Dataset, Split, describe
from ekd_train.data.description import DataDescription
from ekd_train.models import build_model
from ekd_train.models.build_network import build_network
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.pretrained import torchvision_weights
from orchestrator.pretrained.check import read_given
from orchestrator.pretrained.fit import fitted
from orchestrator.pretrained.given import Given
from orchestrator.pretrained.read import read_pretrained
from orchestrator.registry.exported_model import archive_sha256

pytestmark = pytest.mark.attack

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def an_experiment(weights: str, folder: Path, **changes: object) -> Experiment:
    teachers = [{"weights": weights, **changes}]
    tree = {"name": "mine", "data": {"name": "cifar10"}, "teachers": teachers, "student": {"method": "kd"}}
    return build_experiment(tree | {"storage": {"uri": str(folder / "runs")}})


def a_description(classes: int, channels: int = 3, size: int = 32) -> DataDescription:
    return DataDescription(
        name="made up",
        train=10,
        validation=10,
        test=10,
        image_shape=(channels, size, size),
        num_classes=classes,
        class_names=tuple(f"class {i}" for i in range(classes)),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        fingerprint="",
    )


def teacher(experiment: Experiment, data: DataDescription, *, new_head: bool = False) -> torch.nn.Module:
    """The network that the experiment's one given teacher becomes."""
    found, networks = read_pretrained(experiment)
    (run,) = found.teacher_runs()
    (network,) = networks.values()
    built = build_network(run, data)
    built.load_state_dict(fitted(network, run.architecture, data, new_head=new_head), strict=not new_head)
    return built.eval()


def normalised(images: torch.Tensor, size: int) -> torch.Tensor:
    """What torchvision's and timm's own transforms make of a tensor of that size."""
    larger = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in IMAGENET)
    return (larger - mean) / std


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torch hub's cache folder of checkpoints, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet18", ResNet18_Weights.IMAGENET1K_V1), ("densenet121", DenseNet121_Weights.IMAGENET1K_V1)],
)
def test_torchvisions_weights_are_its_own_network_behind_its_own_transform(name, weights, hub, tmp_path):
    torch.manual_seed(0)
    stock = get_model(name, weights=None).eval()
    state = stock.state_dict()
    if name == "densenet121":  # as its published file has them
        state = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): t for key, t in state.items()}
    torch.save(state, hub / Path(weights.url).name)
    experiment = an_experiment(f"torchvision:{weights!r}", tmp_path)
    images = torch.rand(1, 3, 32, 32)
    found = teacher(experiment, a_description(1000))
    with torch.inference_mode():
        assert torch.allclose(found(images), stock(normalised(images, 224)), atol=1e-5)


@pytest.fixture
def no_network(monkeypatch):
    """Nothing listens where the proxy for everything should be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_torchvisions_weights_that_are_nowhere_are_asked_for(hub, tmp_path, no_network, capfd):
    with pytest.raises(
        ExperimentError, match=rf"does not answer: .*refused.*put https://\S+\.pth at {hub}/resnet50-"
    ) as raised:
        read_pretrained(an_experiment("torchvision:ResNet50_Weights.IMAGENET1K_V2", tmp_path))
    assert str(raised.value).startswith("teachers.weights: torchvision:ResNet50_Weights.IMAGENET1K_V2: ")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ExperimentError, match=r"the nearest are ResNet50_Weights\.IMAGENET1K_V"):
        read_pretrained(an_experiment("torchvision:ResNet50_Weights.IMAGENET1K_V3", tmp_path))


def test_torchvisions_weights_are_downloaded_without_a_line_and_their_hash_compared(
    hub, tmp_path, monkeypatch, capfd
):
    bytes_of, fetched = io.BytesIO(), []
    torch.save(get_model("resnet18", weights=None).state_dict(), bytes_of)

    def download(url, file, hash_prefix, progress):
        fetched.append((url, hash_prefix, progress))
        Path(file).write_bytes(bytes_of.getvalue())

    monkeypatch.setattr(torchvision_weights, "why_away", lambda url: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = ResNet18_Weights.IMAGENET1K_V1.url
    read_pretrained(an_experiment("torchvision:ResNet18_Weights.IMAGENET1K_V1", tmp_path))
    assert fetched == [(url, url[-12:-4], False)]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def hugging_face(tmp_path, monkeypatch, no_network) -> Path:
    """The hub's cache, empty, and nothing that answers; HF_HUB_OFFLINE was not set as its library was
    imported."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="comes with timm")
    pytest.importorskip("timm", reason="needs the extra timm")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def test_timms_weights_are_its_own_network_and_a_head_of_other_classes_is_new(hugging_face, tmp_path):
    import timm

    torch.manual_seed(0)
    stock = timm.create_model("resnet10t").eval()
    repository = hugging_face / "models--timm--resnet10t.c3_in1k"
    (repository / "snapshots" / "1").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    save_file(stock.state_dict(), repository / "snapshots" / "1" / "model.safetensors")
    wanted = timm.get_pretrained_cfg("resnet10t.c3_in1k")
    size, images = wanted.input_size[-1], torch.rand(1, 3, 32, 32)
    experiment = an_experiment("timm:resnet10t.c3_in1k", tmp_path)
    with torch.inference_mode():
        found = teacher(experiment, a_description(1000))(images)
        assert torch.allclose(found, stock(normalised(images, size)), atol=1e-5)
    with pytest.raises(ExperimentError, match="1000 classes, the data 7"):
        teacher(experiment, a_description(7))
    tuned = an_experiment("timm:resnet10t.c3_in1k", tmp_path, fine_tune=True)
    started = teacher(tuned, a_description(7), new_head=True).network
    assert started.fc.out_features == 7
    assert all(
        torch.equal(t, stock.state_dict()[k]) for k, t in started.state_dict().items() if "fc." not in k
    )


def test_timms_weights_that_are_nowhere_are_asked_for_at_once_and_in_one_line(
    hugging_face, tmp_path, capfd, monkeypatch
):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(
        ExperimentError, match=r"does not answer: .*refused.*`hf download timm/resnet10t\.c3_in1k`"
    ):
        read_pretrained(an_experiment("timm:resnet10t.c3_in1k", tmp_path))
    assert sum(slept) < 1, "its library tries again for 50 s"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ExperimentError, match=r"the nearest are resnet10t\.c3_in1k"):
        read_pretrained(an_experiment("timm:resnet10t.c3_in", tmp_path))


class Within(torch.nn.Module):
    """A network that normalises by a constant, which no state dict has, and by a buffer."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - self.mean) / 0.2)


def register(folder: Path, form: str, *, within: bool = False) -> tuple[str, torch.nn.Module]:
    """A model that somebody logged without this project; its URI."""
    torch.manual_seed(0)
    network = build_model("resnet", depth=8, num_classes=10).network.eval()
    if within:
        network = Within(network).eval()
    uri = f"sqlite:///{folder / 'runs' / 'mlflow.db'}"
    (folder / "runs").mkdir(exist_ok=True)
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment("theirs")
        example = {"input_example": np.zeros((2, 3, 32, 32), "float32")} if form == "pt2" else {}
        mlflow.pytorch.log_model(
            network,
            name="m",
            registered_model_name=form,
            serialization_format=form,
            pip_requirements=["torch"],
            **example,
        )
    finally:
        mlflow.set_tracking_uri(None)
    return f"models:/{form}/1", network


def hash_of(folder: Path) -> str:
    (archive,) = folder.rglob("model.pt2")
    return archive_sha256(archive.parents[1])


def look(experiment: Experiment, data: Dataset) -> tuple[Experiment, Given]:
    found, looks = read_given(experiment)
    return found, looks(data, describe(data))


def coloured() -> Dataset:
    """Forty images of noise in ten classes."""
    rng = np.random.default_rng(0)
    splits = [
        Split(rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8), np.arange(40) % 10) for _ in range(3)
    ]
    names = tuple(map(str, range(10)))
    return Dataset("made up", *splits, names, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.slow
@pytest.mark.parametrize("within", [False, True], ids=["as they are", "normalised within"])
def test_a_registered_model_is_the_function_of_images_in_0_1_that_was_registered(
    within, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    uri, network = register(tmp_path, "pt2", within=within)
    wanted: dict = {"architecture": {"name": "resnet", "depth": 8}}
    with pytest.raises(
        ExperimentError, match=r"did not register it: .* weights_sha256, the SHA-256 of its data/m"
    ):
        read_pretrained(an_experiment(uri, tmp_path, **wanted))
    wanted["weights_sha256"] = hash_of(tmp_path)
    with pytest.raises(ExperimentError, match=r"mean: \[0, 0, 0\] and std: \[1, 1, 1\] if none"):
        read_pretrained(an_experiment(uri, tmp_path, **wanted))
    plain, scaled = {"mean": [0] * 3, "std": [1] * 3}, {"mean": [0.4] * 3, "std": [0.2] * 3}
    right, wrong = (scaled, plain) if within else (plain, scaled)
    with pytest.raises(ExperimentError, match="give other logits than its own program"):
        look(an_experiment(uri, tmp_path, **wanted, **wrong), coloured())
    experiment, given = look(an_experiment(uri, tmp_path, **wanted, **right), coloured())
    (run,) = experiment.teacher_runs()
    found = build_network(run, describe(coloured()))
    found.load_state_dict(*given.weights.values())
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(found.eval()(images), network(images), atol=1e-4)


@pytest.mark.slow
def test_a_pickled_model_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri, _ = register(tmp_path, "pickle")
    for stated in ({}, {"weights_sha256": "0" * 64, "architecture": {"name": "resnet", "depth": 8}}):
        with pytest.raises(
            ExperimentError, match=r"pickled flavour \(model\.pth\).*serialization_format='pt2'"
        ):
            read_pretrained(an_experiment(uri, tmp_path, **stated))


def test_a_run_or_registry_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ExperimentError, match=r"write it as run:RUN_ID/NAME"):
        read_pretrained(an_experiment("run:mine", tmp_path))
    with pytest.raises(ExperimentError, match=r"there is no such run in .*; `ekd status` lists them"):
        read_pretrained(an_experiment("run:mine/teacher-0", tmp_path))
    with pytest.raises(ExperimentError, match="there is no registry at"):
        read_pretrained(an_experiment("models:/mine@champion", tmp_path))
    assert list(tmp_path.iterdir()) == []

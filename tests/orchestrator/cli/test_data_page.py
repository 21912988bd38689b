"""The commands of docs/data.md, run on images like those it speaks of."""

import io
import re
import shlex
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

from orchestrator.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ekd ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """600 photographs of two classes three times over: as folders, in a table, in parquet files."""
    folder = tmp_path_factory.mktemp("page")
    rows = []
    rng = np.random.default_rng(0)
    for index in range(600):
        split, label = "train" if index < 500 else "Test", ("cat", "dog")[index % 2]
        image = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8))
        path = folder / "photographs" / split / label / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        rows.append({"path": str(path.relative_to(folder / "photographs")), "label": label, "split": split})
    table = pandas.DataFrame(rows)
    table.to_csv(folder / "photographs" / "labels.csv", index=False)
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    (folder / "parquet").mkdir()
    for split, part in table.groupby("split"):
        encoded = [
            {"bytes": (folder / "photographs" / name).read_bytes(), "path": None} for name in part["path"]
        ]
        made = datasets.Dataset.from_dict({"image": encoded, "label": list(part["label"])}, features=features)
        made.to_parquet(io.FileIO(folder / "parquet" / f"{split.lower()}.parquet", "w"))
    return folder


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The packaged experiment's ResNet-18 in torch hub's cache, as if it had been fetched; not trained."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    name = Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    torch.save(resnet18().state_dict(), tmp_path / "hub" / "checkpoints" / name)


@pytest.mark.parametrize("command", commands())
@pytest.mark.usefixtures("weights")
def test_the_page_does_what_it_says(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)[1:]) == 0
    assert "300 training, 200 validation, 100 test images of 3x112x112, 2 classes" in capsys.readouterr().out

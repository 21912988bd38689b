"""docs/examples/program.py: a teacher of which only the exported program is left."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ekd_train import own_code
from ekd_train.models.build_network import build_plain
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.preflight import check

EXAMPLE = Path(__file__).parents[3] / "docs/examples/program.py"


class Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.mean = torch.tensor([0.5])  # neither a parameter nor a buffer
        self.convolution = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        maps = self.norm(self.convolution((images - self.mean) * self.scale)).relu()
        return self.head(maps.mean((2, 3)))


@pytest.fixture
def theirs(tmp_path, monkeypatch) -> nn.Module:
    """The network, of which `first.pt2` and `first.safetensors` in the current folder know."""
    shutil.copyfile(EXAMPLE, tmp_path / "program.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_allowed", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "program", raising=False)  # of another test's folder
    own_code._imported.cache_clear()
    torch.manual_seed(0)
    network = Theirs().eval()
    any_batch = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(
        torch.export.export(network, (torch.rand(4, 1, 8, 8),), dynamic_shapes=any_batch), "first.pt2"
    )
    made: dict = {}
    exec(EXAMPLE.read_text(), made)
    sha256 = hashlib.sha256((tmp_path / "first.pt2").read_bytes()).hexdigest()
    save_file(made["program"](10, 1, 8, file="first.pt2", sha256=sha256).state_dict(), "first.safetensors")
    return network


def experiment(folder: Path, sha256: str):
    options = f"{{file: {folder / 'first.pt2'}, sha256: {sha256}}}"
    given = (
        "{weights: first.safetensors, mean: [0], std: [1], "
        f"architecture: {{name: 'program:program', options: {options}}}}}"
    )
    settings = ["student.members=2", f"storage.uri={folder / 'runs'}", "cluster.address=local"]
    return load_experiment("digits", [f"teachers=[{given}, {{count: 1}}]", *settings])


def test_it_teaches_with_what_it_predicts_and_with_gradients_to_the_pixels(theirs, tmp_path):
    sha256 = hashlib.sha256((tmp_path / "first.pt2").read_bytes()).hexdigest()
    checked = check(experiment(tmp_path, sha256))
    run = checked.experiment.teacher_runs()[0]
    network = build_plain(run.architecture, checked.description)
    (state,) = checked.given.weights.values()
    network.load_state_dict(state)
    images = torch.rand(3, 1, 8, 8, requires_grad=True)
    same = images.detach().clone().requires_grad_()
    logits, expected = network.eval()(images), theirs(same)
    torch.testing.assert_close(logits, expected)
    for found in (logits, expected):
        found.square().sum().backward()
    torch.testing.assert_close(images.grad, same.grad)


def test_another_file_is_refused_before_it_is_opened(theirs, tmp_path):
    with pytest.raises(ExperimentError, match=r"teachers\.0.*its SHA-256 is not 0000"):
        check(experiment(tmp_path, "0" * 64))

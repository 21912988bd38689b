import subprocess
from importlib.metadata import version

import pytest
import torch
from torch import nn

from orchestrator.registry.provenance import code_version, weights_sha256


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init", "-q")
    return package, git


def test_the_code_version_is_the_commit_and_says_whether_it_was_changed(repository):
    package, git = repository
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = code_version(package)
    assert len(clean) >= 12
    (package / "__init__.py").write_text("changed = True")
    assert code_version(package) == f"{clean}-dirty"


def test_code_that_the_surrounding_repository_does_not_track_has_its_installed_version(repository):
    package, _ = repository
    assert code_version(package) == version("ekd")


def test_code_outside_any_repository_has_its_installed_version(tmp_path):
    assert code_version(tmp_path) == version("ekd")


def test_the_weights_digest_depends_on_every_value_and_on_nothing_else():
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert weights_sha256(one) != weights_sha256(other)
    other.load_state_dict(one.state_dict())
    other.requires_grad_(False).eval()
    assert weights_sha256(one) == weights_sha256(other)
    with torch.no_grad():
        other.bias[0] = torch.nextafter(other.bias[0], torch.tensor(9.0))
    assert weights_sha256(one) != weights_sha256(other)


def test_the_weights_digest_takes_scalars_integers_and_low_precision():
    module = nn.BatchNorm2d(3).to(torch.bfloat16)
    assert len(weights_sha256(module)) == 64

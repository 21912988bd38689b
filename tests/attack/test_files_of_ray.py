"""What Ray leaves in a home or in /tmp: a token that is a secret, and a note that anybody could write."""

import os

import pytest

from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime import address
from orchestrator.runtime.ray_session import private_token, token_warning

pytestmark = pytest.mark.attack


@pytest.fixture
def token(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return tmp_path / ".ray" / "auth_token"


def test_the_token_that_ray_makes_is_for_its_user_alone(token):
    with private_token():
        assert token.parent.stat().st_mode & 0o077 == 0
        token.write_text("secret")
        token.chmod(0o644)
    assert token.stat().st_mode & 0o777 == 0o600
    assert token_warning() is None


def test_without_a_token_nothing_is_said_or_made(token):
    with private_token():
        pass
    assert token_warning() is None
    assert not token.exists()


def test_a_token_that_others_can_read_is_named_with_the_remedy(token, tmp_path, monkeypatch):
    token.parent.mkdir()
    for place in (token, tmp_path / "elsewhere"):
        place.write_text("secret")
        place.chmod(0o640)
        assert token_warning() == f"others can read Ray's token: chmod 600 {place}"
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))


@pytest.fixture
def note(tmp_path, monkeypatch):
    """The note of a cluster, which answers."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(address, "note_of_ray_start", lambda: tmp_path / "ray_current_cluster")
    monkeypatch.setattr(address, "why_unreachable", lambda where: None)
    (tmp_path / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    return tmp_path / "ray_current_cluster"


def test_the_note_of_a_cluster_is_believed_where_this_user_wrote_it(note):
    assert address.wanted_address(Cluster()) == "10.0.0.1:6379"


def test_the_note_of_another_user_is_not_believed(note):
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user needs root")
    os.chown(note, 65534, 65534)
    assert address.wanted_address(Cluster()) is None


@pytest.mark.parametrize("planted", ["link", "pipe", "folder", "bytes"])
def test_a_note_that_is_no_text_file_is_not_believed(note, tmp_path, planted):
    note.rename(tmp_path / "other")
    if planted == "link":
        note.symlink_to(tmp_path / "other")
    elif planted == "pipe":
        os.mkfifo(note)
    elif planted == "folder":
        note.mkdir()
    else:
        note.write_bytes(b"\xff\xfe")
    assert address.wanted_address(Cluster()) is None

"""What the doctor says about each thing that a run would use."""

from __future__ import annotations

import pytest

from orchestrator.cli.main import main
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning import doctor
from orchestrator.planning.capacity import Capacity, Node


@pytest.fixture
def no_ray(monkeypatch, tmp_path):
    """Ray is not started: the cluster is the one that the test names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(
        "orchestrator.planning.doctor.start_ray", lambda *_: Capacity((Node(2),), "this machine")
    )
    monkeypatch.setattr("orchestrator.planning.doctor.stop_ray", lambda: None)


def findings(*overrides: str) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.diagnose(load_experiment("digits", overrides))}


def test_everything_is_looked_at_and_nothing_left_behind(no_ray, tmp_path):
    found = findings()
    assert list(found) == ["storage", "tracking", "data", "cluster"]
    assert all(finding.ok for finding in found.values()), found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("storage.uri=/etc/passwd", "storage"),
        ("tracking.uri=http://127.0.0.1:9", "tracking"),
        ("data.validation_size=5000", "data"),
        ("student.architecture.depth=11", "data"),
        ("cluster.gpus_per_worker=1", "cluster"),
    ],
)
def test_one_thing_that_is_wrong_does_not_hide_the_others(no_ray, override, what):
    found = findings(override)
    assert not found[what].ok
    # A storage that cannot be used takes the SQLite file beside it along.
    others = [f for f in found.values() if f.what != what and what != "storage"]
    assert all(finding.ok for finding in others)
    assert len(found[what].detail.splitlines()) == 1


def test_the_status_says_whether_a_run_could_start(no_ray, capsys):
    assert main(["doctor"]) == 0
    assert main(["doctor", "--set", "tracking.uri=http://127.0.0.1:9"]) == 2
    shown = capsys.readouterr()
    assert "FAIL tracking" in shown.out
    assert "start it, or set tracking.uri" in shown.out


def test_a_ray_that_does_not_start_is_reported(no_ray, monkeypatch):
    def fail(*_: object) -> Capacity:
        raise RuntimeError("no room for another raylet")

    monkeypatch.setattr("orchestrator.planning.doctor.start_ray", fail)
    assert "no room" in findings()["cluster"].detail


@pytest.mark.slow
def test_a_real_ray_is_started_and_stopped(tmp_path, monkeypatch, environment_given_back):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("orchestrator.runtime.address.note_of_ray_start", lambda: tmp_path / "no cluster")
    assert findings()["cluster"].ok
    import ray

    assert not ray.is_initialized()

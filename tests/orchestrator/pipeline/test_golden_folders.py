"""Run folders of an earlier version (tests/golden) are continued, reported, registered and exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Copies of the folders, as `runs` below the current folder."""
    monkeypatch.chdir(tmp_path)
    for place in (path for path in GOLDEN.iterdir() if path.is_dir()):
        shutil.copytree(place, tmp_path / "runs" / place.name)
    return tmp_path / "runs"


@pytest.mark.slow
def test_a_run_that_was_killed_in_the_distillation_is_continued_to_its_end(runs):
    files = ("teacher-0.safetensors", "teacher-1.safetensors", "control.safetensors")
    before = {name: (runs / "unfinished" / "networks" / name).read_bytes() for name in files}
    command = [sys.executable, "-m", "orchestrator", "run", str(GOLDEN / "golden.yaml")]
    settings = ["--run-id", "unfinished", "--set", "cluster.address=local", "--set", "storage.uri=runs"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [*command, *settings], cwd=runs.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "models:/ekd-golden/1"
    assert "student: continues after epoch" in done.stderr
    assert {name: (runs / "unfinished" / "networks" / name).read_bytes() for name in files} == before
    summary = json.loads((runs / "unfinished" / "summary.json").read_text())
    assert set(summary["stages"]) >= {"prepare", "teachers", "control", "average", "evaluate", "register"}
    (version,) = MlflowClient(f"sqlite:///{runs}/mlflow.db").search_model_versions("name = 'ekd-golden'")
    assert version.tags["ekd.run_id"] == "unfinished"


def test_their_states_are_listed(runs, capsys):
    assert main(["status", "--storage", "runs"]) == 0
    listed, _, newest = capsys.readouterr().out.partition("\n\n")
    states = {line.split()[0]: line.split()[1] for line in listed.splitlines()[1:]}
    assert newest
    assert states == {"unfinished": "stopped", "finished": "done", "searched": "done"}
    assert main(["status", "unfinished", "--storage", "runs"]) == 0
    assert "student      checkpoint after epoch" in capsys.readouterr().out


def test_a_versions_alias_is_said_to_be_of_when_it_was_registered(runs, capsys):
    assert main(["status", "searched", "--storage", "runs"]) == 0
    version = " ".join(capsys.readouterr().out.split()).partition("models:/ekd-golden/2 ")[2]
    assert version.startswith("challenger: not better: ")
    assert version.endswith(" (when registered; `ekd models ekd-golden` says what it is now)")


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("name", ["finished", "searched"])
def test_what_a_search_found_is_said_of_the_run_that_was_one(runs, capsys, command, name):
    assert main([command, name, "--storage", "runs"]) == 0
    out = capsys.readouterr().out
    assert ("Trials: 2 finished\n" in out) == (name == "searched")
    best = "Best on validation: trial-0001, 6.67 %, distillation.temperature=2\n"
    assert (best in out) == (name == "searched")


@pytest.mark.parametrize("name", ["finished", "searched"])
def test_finished_ones_are_exported_and_reported(runs, capsys, name):
    assert main(["export", name, "--storage", "runs", "--output", "student.safetensors"]) == 0
    capsys.readouterr()
    assert main(["report", name, "--storage", "runs"]) == 0
    page = runs / name / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    assert ("trial-0001" in page.read_text()) == (name == "searched")

"""A search small enough for tests, as a user starts it, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ekd_process import MARK, Started

SPACE = """
description: two keys, for tests
domains:
  distillation.temperature: {log_uniform: [1, 8], reason: a test}
  perturbation.strength: {choice: [0.0, 1.0], reason: a test}
"""

COSTLY_SPACE = """
description: cheap and dear students
domains:
  distillation.temperature: {log_uniform: [1, 8], reason: a test}
  student.members: {choice: [2, 4], reason: a test}
"""

TINY = {
    "data.train_size": 100,
    "data.validation_size": 100,
    "data.test_size": 100,
    "data.augmentation.crop_padding": 0,
    "teachers.count": 2,
    "teachers.training.epochs": 2,
    "teachers.training.batch_size": 50,
    "teachers.training.schedule.warmup_epochs": 0,
    "student.members": 2,
    "student.training.epochs": 9,
    "student.training.batch_size": 50,
    "student.training.schedule.warmup_epochs": 0,
    "student.training.evaluate_every": 1,
    "student.training.checkpoint_every": 1,
}


def arguments(folder: Path, *options: str, space: str = SPACE, **changes: Any) -> list[str]:
    """`ekd tune digits` made tiny, everything it leaves below `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(space)
    settings = TINY | {"storage.uri": str(folder / "runs")} | changes
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["digits", "--space", str(folder / "space.yaml"), "--run-id", "search", *sets, *options]


def start(folder: Path, *options: str, **changes: Any) -> subprocess.Popen[str]:
    """Start the search in a process of its own, on a Ray of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    environment[MARK] = str(folder)
    command = [sys.executable, "-m", "orchestrator", "tune", *arguments(folder, *options, **changes)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 1000) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def trials(folder: Path) -> dict[int, dict[str, Any]]:
    """The trial store, as it is on disk."""
    found = (json.loads(p.read_text()) for p in (folder / "runs/search/trials").glob("trial-*/trial.json"))
    return {record["number"]: record for record in found}


def mlflow_runs(folder: Path) -> list[Any]:
    """Every MLflow run of the search: the parent and its children."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def mlflow_artifacts(folder: Path, run_id: str, path: str) -> set[str]:
    """What an MLflow run has below `path`."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    return {item.path for item in client.list_artifacts(run_id, path)}


def kill_a_worker(process: subprocess.Popen[str], folder: Path) -> None:
    """`kill -9` one of the worker group that trains a trial, and nothing else."""
    Started(process, str(folder), folder).kill_a_worker()


def stop_trials(process: subprocess.Popen[str], folder: Path) -> list[int]:
    """Stop the processes that train trials where they are; their ids."""
    found: list[int] = []

    def seen() -> bool:
        members = Started(process, str(folder), folder).members()
        found[:] = [pid for pid, command in members.items() if "Trainable" in command]
        return bool(found)

    while not seen():  # while it is called, its title is that of the call
        assert process.poll() is None
        time.sleep(0.05)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    return found

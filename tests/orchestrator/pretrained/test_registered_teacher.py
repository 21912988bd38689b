"""A run with a teacher from MLflow's registry, as a user starts it."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient

from ekd_train.models import build_model
from orchestrator.registry.exported_model import archive_sha256

pytestmark = pytest.mark.slow

SHAPE = {"name": "resnet", "depth": 8, "stem_channels": 4}
TRAINING = {"epochs": 1, "batch_size": 20}


def register(folder: Path) -> str:
    """A teacher of digits, drawn and not trained, in the registry of `folder`; its SHA-256."""
    (folder / "runs").mkdir(exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    try:
        mlflow.set_experiment("theirs")
        logged = mlflow.pytorch.log_model(
            build_model(**SHAPE, num_classes=10, in_channels=1, image_size=8).network.eval(),
            name="m",
            registered_model_name="champ",
            serialization_format="pt2",
            pip_requirements=["torch"],
            input_example=np.zeros((2, 1, 8, 8), "float32"),
        )
    finally:
        mlflow.set_tracking_uri(None)
    return archive_sha256(Path(mlflow.artifacts.download_artifacts(logged.artifact_path)))


def write_experiment(folder: Path, sha256: str) -> None:
    """`champ.yaml`, of seconds."""
    tree = {
        "name": "champ",
        "data": {"name": "digits", "train_size": 100, "validation_size": 50, "test_size": 60},
        "teachers": {
            **{"weights": "models:/champ/1", "weights_sha256": sha256, "architecture": SHAPE},
            **{"mean": [0], "std": [1]},  # its program normalises nothing
        },
        "student": {"method": "kd", "architecture": SHAPE, "training": TRAINING},
        "distillation": {"objective": "mean_kd"},
        "perturbation": {"kind": "none"},
        "cluster": {"address": "local"},
        "storage": {"uri": "runs"},
    }
    (folder / "champ.yaml").write_text(yaml.safe_dump(tree))


def ekd(*words: str) -> subprocess.CompletedProcess[str]:
    """The command, which has to end well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_no_line_is_printed_twice_and_the_finished_run_is_read_once_the_teacher_is_gone(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_experiment(tmp_path, register(tmp_path))
    done = ekd("run", "champ.yaml")
    lines = Counter(
        line.partition("orchestrator.pipeline.progress:")[2] or line for line in done.stderr.splitlines()
    )
    assert lines["teachers ..."] == lines["report ..."] == 1
    assert [line for line, times in lines.items() if times > 1] == []

    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    MlflowClient(uri, uri).delete_registered_model("champ")
    again = ekd("run", "champ.yaml")
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "is complete; nothing to do" in again.stderr

"""The commands of docs/teachers.md on a folder of photographs, a teacher in S3, where the run is kept too."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from s3_servers import KEY_ID, SECRET, Server
from torchvision.models import resnet18

from ekd_train.models import build_model

PAGE = Path(__file__).parents[3] / "docs" / "teachers.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(moto: Server, tmp_path: Path, monkeypatch) -> Path:
    """Where the commands are typed: three kinds of photographs, the page's experiment and its weights."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (tmp_path / "images/train" / label).mkdir(parents=True)
        for index in range(250):
            pixels = rng.integers(0, 256, (17, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/train/{label}/{index}.jpg")
    torch.manual_seed(0)
    safetensors.torch.save_file(resnet18(num_classes=3).state_dict(), tmp_path / "first.safetensors")
    second = build_model("wide_resnet", num_classes=3, in_channels=3, image_size=16, depth=16)
    torch.save(second.state_dict(), tmp_path / "second.pth")
    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    s3 = boto3.session.Session(**keys).client("s3", endpoint_url=moto.url)
    s3.create_bucket(Bucket="models")
    s3.upload_file(str(tmp_path / "second.pth"), "models", "second.pth")
    experiment = yaml.safe_load(blocks("yaml")[0])
    experiment["data"] |= {"validation_size": 100, "test_size": 100, "image_size": 16}
    experiment["storage"] = {"uri": "s3://bucket/page", "endpoint_url": moto.url}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(experiment))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_they_run_and_a_second_run_finds_what_is_trained_in_s3(folder: Path) -> None:
    def ekd(command: str, *more: str) -> str:
        words = [
            sys.executable,
            "-m",
            "orchestrator",
            *shlex.split(command, comments=True)[1:],
            "--smoke",
            *more,
        ]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
        return done.stdout

    plan, run = blocks("sh")[0].splitlines()
    given = [line.split()[-1] for line in ekd(plan).splitlines() if line.startswith("teacher-")]
    assert given[:2] == ["given", "given"]
    assert ekd(run, "--set", "cluster.address=local").splitlines()[-1].startswith("models:/ekd-mine")
    colder = ekd(plan, "--set", "distillation.temperature=2")
    stored = {words[0]: words[-1] for line in colder.splitlines() if len(words := line.split()) > 3}
    assert {stored[name] for name in ("teacher-2", "teacher-3", "control")} == {"reused"}
    assert stored["student"] != "reused"

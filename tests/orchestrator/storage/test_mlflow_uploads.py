"""Uploads of artifacts to S3 by MLflow."""

import boto3
import pytest
from s3_servers import KEY_ID, SECRET

from orchestrator.tracking.connection import connect, explained, upload
from orchestrator.tracking.preflight import TrackingError


@pytest.mark.slow
def test_every_upload_is_made_with_the_keys_that_the_shared_file_has_then(rclone, tmp_path, monkeypatch):
    def write_shared_file(secret):
        text = f"[default]\naws_access_key_id={KEY_ID}\naws_secret_access_key={secret}\n"
        (tmp_path / "credentials").write_text(text)

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", rclone.url)
    write_shared_file(SECRET)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    run = client.create_run(client.create_experiment("rotated", "s3://bucket/artifacts")).info

    def log(name):
        (tmp_path / "files" / name).write_text(name)
        with explained(uri, "upload to"):
            files = str(tmp_path / "files")
            upload(uri, run.artifact_uri, files, lambda _: pytest.fail("not to S3"), "s3://bucket")

    (tmp_path / "files").mkdir()
    log("before")
    rclone.stop()
    rclone.command = [word.replace(SECRET, "rotated") for word in rclone.command]
    rclone.start()
    with pytest.raises(TrackingError, match="cannot upload to"):
        log("between")
    write_shared_file("rotated")
    log("after")
    kept = tmp_path / "objects/bucket/artifacts" / run.run_id / "artifacts"
    assert (kept / "after").read_text() == "after"

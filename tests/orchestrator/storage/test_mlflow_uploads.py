"""MLflow's own uploads to S3, made through our client of the tracking store."""

import boto3
import pytest
from s3_servers import KEY_ID, SECRET

from orchestrator.tracking.connection import connect, explained
from orchestrator.tracking.preflight import TrackingError


@pytest.mark.slow
def test_after_a_refused_upload_the_next_one_reads_the_shared_file_again(rclone, tmp_path, monkeypatch):
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
    run = client.create_run(client.create_experiment("rotated", "s3://bucket/artifacts")).info.run_id
    client.log_text(run, "before", "before.txt")
    rclone.stop()
    rclone.command = [word.replace(SECRET, "rotated") for word in rclone.command]
    rclone.start()
    write_shared_file("rotated")
    with pytest.raises(TrackingError, match="cannot upload to"), explained(uri, "upload to"):
        client.log_text(run, "after", "after.txt")
    client.log_text(run, "after", "after.txt")
    assert (tmp_path / "objects/bucket/artifacts" / run / "artifacts/after.txt").read_text() == "after"

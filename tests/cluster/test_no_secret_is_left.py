"""Secrets in the environment of a run are found nowhere in what it leaves."""

import os
import subprocess

import pytest
from job import Job
from ray_hosts import API

pytestmark = pytest.mark.timeout(1200)

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret-5f1e",
    "AWS_SESSION_TOKEN": "canary-aws-session-9b7c",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password-3d2a",
    "MLFLOW_TRACKING_USERNAME": "canary-mlflow-user-77aa",
}
"""In the environment of Ray's hosts, of the driver and of the desk. moto and MLflow accept any."""


@pytest.mark.fault("none, secrets in the environment")
def test_no_secret_is_in_storage_logs_tags_job_metadata_or_the_process_list(cluster, watch):
    unencrypted = f"{cluster.store.host.address},{cluster.tracking.host.address}"
    cluster.restart_with(AWS_ACCESS_KEY_ID="AKIACANARY", EKD_ALLOW_INSECURE=unencrypted, **CANARIES)
    cluster.store.remove("ekd/networks/")  # those of the runs before: this one is to train its own
    job = Job(cluster, "canaries").submit()
    job.wait_for_checkpoint("student", 2)
    shown = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    # What listens on a worker's host is Ray's, and torch's within it; where a run is submitted, nothing does.
    listening = cluster.desk.call("ss", "--listening", "--tcp", "--udp", "--no-header", timeout_s=300)
    assert listening.returncode == 0
    assert listening.stdout == ""
    job.finish()

    secrets = [*(value.encode() for value in CANARIES.values()), cluster.token.encode()]
    found = {f"ps: {line}" for line in shown.splitlines() if any(s in line.encode() for s in secrets)}
    for key in cluster.store.keys(""):
        data = cluster.store.read(key)
        found |= {f"S3: {key}" for secret in secrets if secret in data}
    # Ray's session folders with all of its logs, the drivers' folders, MLflow's and PostgreSQL's files.
    sources = 0
    for folder in (*cluster.disks(), cluster.folder):
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                if os.path.basename(path) in ("auth_token", "credentials") or not os.path.isfile(path):
                    continue  # where the secrets come from
                sources += 1
                with open(path, "rb") as file:
                    data = file.read()
                found |= {path for secret in secrets if secret in data}
    jobs = cluster.desk.call("ray", "job", "list", "--address", API).stdout
    assert "ekd-canaries-1" in jobs
    found |= {"ray job list" for secret in secrets if secret.decode() in jobs}
    assert sources > 100
    assert not found
    watch.note()

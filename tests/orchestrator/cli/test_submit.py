"""`ekd submit`: what it sends to the cluster, and what it refuses before it asks it anything."""

import shlex
from contextlib import nullcontext

import pytest

from orchestrator.cli.checks import named_experiment, requested_search
from orchestrator.cli.main import build_parser, main
from orchestrator.cli.search_options import search_options
from orchestrator.errors import ExperimentError
from orchestrator.runtime import jobs_api
from orchestrator.runtime.address import dashboard_url


class JobApi:
    """Ray's `JobSubmissionClient` of an empty cluster."""

    def __init__(self):
        self.submitted = []

    def list_jobs(self):
        return []

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        self.submitted.append((submission_id, entrypoint))


@pytest.fixture
def api(monkeypatch):
    made = JobApi()
    monkeypatch.setattr(jobs_api, "_client", lambda address: made)
    return made


SHARED = ["--set", "storage.uri=s3://bucket/ekd", "--set", "tracking.uri=http://mlflow:5000"]


def test_a_search_is_submitted_with_its_options_and_ones_own_space(api, tmp_path, monkeypatch):
    """What runs on the cluster is what `ekd tune` would do here, under the same run id."""
    sent = []
    monkeypatch.setattr(jobs_api, "upload_folder", lambda files: nullcontext(sent.append(files) or tmp_path))
    mine = tmp_path / "digits.yaml"
    mine.write_text(
        "description: a test\ndomains:\n  distillation.temperature: {uniform: [1, 4], reason: a test}\n"
    )
    options = ["digits", "--space", str(mine), "--trials", "5", "--scheduler", "none", "--smoke", *SHARED]
    assert main(["submit", *options, "--address", "head:8265", "--no-wait"]) == 0
    [(job, entrypoint)] = api.submitted
    words = shlex.split(entrypoint)
    run_id = words[-1]
    assert job == f"ekd-{run_id}-1"
    assert run_id.startswith("digits-smoke-tune-")
    assert words[:3] == ["python", "-m", "orchestrator"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space").mkdir()
    mine.rename(tmp_path / "space" / "digits.yaml")
    parsed = build_parser().parse_args(words[3:])
    request, pool = requested_search(named_experiment(parsed), **search_options(parsed))
    assert (request.trials, request.scheduler) == (5, "none")
    assert request.default_run_id(pool) == run_id
    assert sent == [{"space/digits.yaml": mine}]


def test_options_of_a_search_without_a_space_are_refused(api, capsys):
    assert main(["submit", "digits", "--trials", "5", "--address", "head:8265", *SHARED]) == 2
    assert "add --space NAME" in capsys.readouterr().err
    assert not api.submitted


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head:8265", "http://head:8265"),
        ("10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
    ],
)
def test_an_address_is_understood_with_and_without_a_scheme(address, url):
    assert dashboard_url(address) == url


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "head:port", "http://", "http://me:secret@head:8265"]
)
def test_an_address_that_is_no_dashboard_is_refused_at_once(address):
    with pytest.raises(ExperimentError, match="http://HEAD:8265") as refused:
        dashboard_url(address)
    assert "secret" not in str(refused.value)

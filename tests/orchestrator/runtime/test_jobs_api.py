"""Submission through Ray's job API, against a job API that is made up."""

import asyncio
import socket
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekd_train import waiting
from orchestrator.api import load_experiment as load
from orchestrator.cli.commands.submit import _say
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.submission import why_not_elsewhere
from orchestrator.runtime import jobs_api
from orchestrator.runtime.jobs_api import (
    Jobs,
    Submission,
    SubmissionError,
    decide,
    follow,
    start,
    upload_folder,
)

STATUSES = st.sampled_from(["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"])


class JobApi:
    """Ray's `JobSubmissionClient`, as far as it is used."""

    def __init__(self):
        self.jobs, self.log, self.submitted = {}, "", []

    def list_jobs(self):
        return [
            SimpleNamespace(submission_id=k, status=SimpleNamespace(value=v)) for k, v in self.jobs.items()
        ]

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists")
        self.jobs[submission_id] = "PENDING"
        self.submitted.append((submission_id, entrypoint, runtime_env, metadata))

    def get_job_status(self, job):
        return SimpleNamespace(value=self.jobs[job])

    async def tail_job_logs(self, job):
        yield self.log

    def get_job_info(self, job):
        return SimpleNamespace(message="exit code 1, last available logs (truncated to 20,000 chars):\n...")


@pytest.fixture
def api(monkeypatch):
    made = JobApi()
    monkeypatch.setattr(jobs_api, "_client", lambda address: made)
    return made


RUN = Submission("digits-1", ["run", "my exp.yaml"], {}, "abc")


def test_a_first_submission_starts_the_run_and_sends_no_variable_but_the_version(api):
    said = []
    assert start(RUN, "http://head:8265", said.append) == "ekd-digits-1-1"
    [(job, entrypoint, runtime_env, metadata)] = api.submitted
    assert job == "ekd-digits-1-1"
    assert entrypoint == "python -m orchestrator run 'my exp.yaml' --run-id digits-1"
    assert metadata == {"job_name": "ekd run digits-1"}  # what Ray's dashboard shows as the job's name
    assert runtime_env["env_vars"] == {"EKD_CODE_VERSION": "abc"}
    assert "submitting" in said[0]


def test_a_second_submission_of_a_running_run_attaches(api):
    api.jobs["ekd-digits-1-1"] = "RUNNING"
    said = []
    assert start(RUN, "http://head:8265", said.append) == "ekd-digits-1-1"
    assert not api.submitted
    assert "attached" in said[-1]


@pytest.mark.parametrize("ended", ["FAILED", "STOPPED", "SUCCEEDED"])
def test_a_run_that_has_ended_is_continued_under_a_new_name(api, ended):
    api.jobs["ekd-digits-1-1"] = ended
    assert start(RUN, "http://head:8265", print) == "ekd-digits-1-2"


def test_of_two_submissions_at_once_the_slower_attaches(api, monkeypatch):
    known = iter([{}, {"ekd-digits-1-1": "PENDING"}])
    monkeypatch.setattr(Jobs, "statuses", lambda self: next(known))
    api.jobs["ekd-digits-1-1"] = "PENDING"
    assert start(RUN, "http://head:8265", print) == "ekd-digits-1-1"
    assert not api.submitted


@given(st.dictionaries(st.integers(1, 30), STATUSES))
def test_at_most_one_attempt_of_a_run_is_ever_made_at_a_time_and_no_name_twice(attempts):
    jobs = {f"ekd-r-{n}": status for n, status in attempts.items()} | {
        "ekd-r-x-1": "RUNNING",
        "other": "RUNNING",
    }
    job, running = decide("r", jobs)
    newest = max(attempts, default=0)
    if attempts.get(newest) in ("PENDING", "RUNNING"):
        assert running
        assert job == f"ekd-r-{newest}"
    else:
        assert not running
        assert job not in jobs


def test_the_log_of_a_job_is_shown_once_and_its_end_is_the_status(api, capsys, monkeypatch):
    monkeypatch.setattr(jobs_api.time, "sleep", lambda s: api.jobs.update(j="SUCCEEDED"))
    api.jobs["j"], api.log = "RUNNING", "one\n"
    assert follow("j", "http://head:8265", print) == 0
    assert capsys.readouterr().out == "one\n"


def test_a_log_whose_connection_breaks_goes_on_where_it_was(api, capsys, monkeypatch):
    """Ray sends it from its beginning again; nothing is shown twice, nothing is lost."""
    whole, connections = "one\ntwo\nthree\n", []

    async def tail(job):
        connections.append(job)
        if len(connections) == 1:
            yield whole[:4]
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        for part in (whole[:6], whole[6:]):
            yield part
        api.jobs["j"] = "SUCCEEDED"

    monkeypatch.setattr(api, "tail_job_logs", tail)
    monkeypatch.setattr(jobs_api.time, "sleep", lambda s: None)
    api.jobs["j"] = "RUNNING"
    assert follow("j", "http://head:8265", print) == 0
    assert capsys.readouterr().out == whole
    assert len(connections) == 2


def test_a_head_that_falls_silent_is_asked_whether_it_is_there(api, monkeypatch):
    async def silent(job):
        await asyncio.sleep(60)
        yield ""

    def lost(job):
        if asked.append(job) or len(asked) > 2:
            raise RuntimeError(f"Job {job} does not exist")
        return SimpleNamespace(value="RUNNING")

    asked = []
    monkeypatch.setattr(jobs_api, "QUIET_S", 0.01)
    monkeypatch.setattr(api, "tail_job_logs", silent)
    monkeypatch.setattr(api, "get_job_status", lost)
    with pytest.raises(SubmissionError, match="lost sight of job j"):
        Jobs("http://head:8265").follow("j", print)


def test_a_failed_job_gives_status_1_and_says_how_to_continue(api, capsys):
    api.jobs["j"] = "FAILED"
    assert follow("j", "http://head:8265", print) == 1
    said = capsys.readouterr().out
    assert "job j failed: exit code 1; the same command continues the run" in said


def test_what_a_cluster_says_of_a_job_is_shown_and_not_obeyed(capsys):
    _say("job j failed: died \x1b]0;owned\x07\x1b[2J\u202e")
    assert capsys.readouterr().out == "job j failed: died \\x1b]0;owned\\x07\\x1b[2J\\u202e\n"


def test_ctrl_c_lets_go_and_says_how_to_stop_or_attach_again(api, capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs_api.time, "sleep", interrupt)
    api.jobs["j"] = "RUNNING"
    assert follow("j", "http://head:8265", print) == 1
    said = capsys.readouterr().out
    assert "ray job stop --address http://head:8265 j" in said
    assert "attaches to it again" in said


def test_a_head_that_is_replaced_is_told_from_one_that_is_away(api, monkeypatch):
    def unknown(job):
        raise RuntimeError(f"Job {job} does not exist")

    monkeypatch.setattr(api, "get_job_status", unknown)
    with pytest.raises(SubmissionError, match="submit the same run again"):
        Jobs("http://head:8265").follow("j", print)


def test_a_head_that_accepts_a_connection_and_never_answers_is_named_and_given_up(monkeypatch, caplog):
    monkeypatch.setattr(jobs_api, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(waiting, "FIRST_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(SubmissionError, match="cannot reach"),
    ):
        Jobs(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert "waiting for Ray's dashboard at http://127.0.0.1:" in caplog.text


def test_a_head_that_is_away_is_said_to_be_while_a_log_is_followed(api, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    monkeypatch.setattr(jobs_api, "PATIENCE_S", 0.0)
    monkeypatch.setattr(api, "get_job_status", lambda job: 1 / 0)
    monkeypatch.setattr(jobs_api, "Wait", partial(waiting.Wait, first_s=0.0))
    with pytest.raises(SubmissionError, match="lost sight of job j"):
        Jobs("http://head:8265").follow("j", print)
    assert "waiting for the cluster at http://head:8265, which is away" in caplog.text


def test_a_number_that_looks_like_a_refusal_is_none(api, monkeypatch):
    def break_down():
        raise RuntimeError("Request failed with status code 500: no such actor on port 8403")

    monkeypatch.setattr(api, "list_jobs", break_down)
    with pytest.raises(SubmissionError, match="8403") as raised:
        Jobs("http://head:8265").statuses()
    assert "token" not in str(raised.value)


@pytest.mark.parametrize("kind", ["AuthenticationError", "RuntimeError"])
def test_a_missing_token_is_explained(api, monkeypatch, kind):
    def refuse():
        raise type(kind, (Exception,), {})("Request failed with status code 401: Unauthorized")

    monkeypatch.setattr(api, "list_jobs", refuse)
    with pytest.raises(SubmissionError, match="RAY_AUTH_TOKEN"):
        Jobs("http://head:8265").statuses()


def test_what_travels_is_the_code_and_ones_own_files(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine")
    with upload_folder({"mine.yaml": mine, "space/mine.yaml": mine}) as folder:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"mine.yaml", "space/mine.yaml", "ekd_train/training/loop.py"} <= names
    assert not [name for name in names if "__pycache__" in name]
    assert {name.split("/")[0] for name in names} == {"mine.yaml", "space", *jobs_api.PACKAGES}
    assert not folder.exists()


def test_an_experiment_whose_results_would_be_lost_with_the_job_is_refused():
    shared = ["storage.uri=s3://bucket/ekd", "tracking.uri=http://mlflow:5000"]
    assert why_not_elsewhere(load_experiment("digits", shared)) is None
    assert "storage.uri" in why_not_elsewhere(load_experiment("digits", shared[1:]))
    assert "tracking.uri" in why_not_elsewhere(load_experiment("digits", shared[:1]))
    for relative in (
        "tracking.uri=sqlite:///x.db",
        "tracking.uri=sqlite+pysqlite:///x.db",
        "data.root=images",
        "student.architecture.weights=first.safetensors",
        "student.architecture.weights=~/first.safetensors",
    ):
        key, _, value = relative.partition("=")
        problem = why_not_elsewhere(load_experiment("digits", [*shared, relative]))
        assert key.rpartition("architecture.")[2] in problem
        assert value in problem
    mine = {"name": "mine", "teachers": [{"weights": "models/first.pth"}, {"count": 3}]}
    assert "weights is 'models/first.pth'" in why_not_elsewhere(load(mine, shared))
    for weights in ("s3://models/a.pth", "/mnt/a.pth", "timm:resnet10t", "run:mine/control", "models:/a/1"):
        mine["teachers"][0]["weights"] = weights
        assert why_not_elsewhere(load(mine, shared)) is None
    absolute = ["tracking.uri=sqlite:////mnt/x.db", "data.root=/mnt/images"]
    assert why_not_elsewhere(load_experiment("digits", [*shared, *absolute])) is None

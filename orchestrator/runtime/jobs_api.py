"""Ray's job API: submit a run to a cluster, follow its log, attach to one that runs.

A job is named after its run: `ekd-<run id>-<attempt>`. So the same submission finds the run again:
one that is running is attached to, one that failed is continued by a new attempt, because a
submission id cannot be used twice.
"""

import asyncio
import contextlib
import logging
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.waiting import Wait, waiting_for
from orchestrator.errors import EkdError
from orchestrator.experiment.redaction import one_line, redacted, visible
from orchestrator.runtime.deadline import within

PACKAGES = ("ekd_train", "orchestrator", "tune_spaces")
"""What a job runs: the code as it is here; everything that it imports is installed on the cluster."""
RUNNING, SUCCEEDED = ("PENDING", "RUNNING"), "SUCCEEDED"
ENDED = (SUCCEEDED, "FAILED", "STOPPED")
CONNECT_TIMEOUT_S = 30.0
"""For the first answer, Ray's imports with it."""
REQUEST_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 300.0
"""For a submission, which uploads the code."""
_REFUSED = re.compile(r"status code 40[13]\b")
PATIENCE_S = 120.0
"""How long a head that does not answer is asked again while its job is followed."""
QUIET_S = 20.0
"""After so long without a new line of the log the head is asked whether it is still there."""


class SubmissionError(EkdError):
    """The cluster's job API cannot be used; one line says what is wrong and what to do."""


def decide(run_id: str, jobs: Mapping[str, str]) -> tuple[str, bool]:
    """The job of the run `run_id` that runs, else a new name, and whether it runs; `jobs`: id -> status.

    >>> decide("digits-1", {})
    ('ekd-digits-1-1', False)
    >>> decide("digits-1", {"ekd-digits-1-1": "FAILED", "ekd-digits-1-2": "RUNNING"})
    ('ekd-digits-1-2', True)
    """
    attempts = {
        int(match[1]): status
        for job, status in jobs.items()
        if (match := re.fullmatch(rf"ekd-{re.escape(run_id)}-(\d+)", job))
    }
    newest = max(attempts, default=0)
    running = attempts.get(newest) in RUNNING
    return f"ekd-{run_id}-{newest if running else newest + 1}", running


@contextlib.contextmanager
def upload_folder(files: Mapping[str, Path]) -> Iterator[Path]:
    """A folder with what has to travel: the packages' sources and `files`, by their paths in it."""
    here = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="ekd-submit-") as name:
        folder = Path(name)
        for package in PACKAGES:
            shutil.copytree(here / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for path, file in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / path)
        yield folder


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`. Raises `SubmissionError`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = self._ask(lambda: _client(address), CONNECT_TIMEOUT_S)

    def statuses(self) -> dict[str, str]:
        """All jobs that were submitted, by submission id."""
        jobs = self._ask(self._client.list_jobs)
        return {job.submission_id: str(job.status.value) for job in jobs if job.submission_id}

    def submit(
        self, job: str, name: str, command: Sequence[str], folder: Path, variables: Mapping[str, str]
    ) -> None:
        """Start `command` on the cluster, in a copy of `folder`; `name` is what Ray's dashboard shows."""
        runtime_env: dict[str, Any] = {"working_dir": str(folder), "env_vars": dict(variables)}
        self._ask(
            lambda: self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job,
                runtime_env=runtime_env,
                metadata={"job_name": name},
            ),
            UPLOAD_TIMEOUT_S,
        )

    def follow(self, job: str, show: Any) -> str:
        """Pass the job's log on to `show` as it grows, until it has ended; its last status.

        A head that is away for a moment is asked again; one that has forgotten the job (it was
        replaced by a new one) or stays away raises `SubmissionError`.
        """
        shown = passed = 0
        away: Wait | None = None

        def new(text: str) -> None:
            nonlocal shown, passed, away
            away = None
            passed += len(text)
            if passed > shown:  # after a new connection the log comes from its beginning again
                show(text[shown - passed :])
                shown = passed

        while True:
            try:
                self._status(job)
                passed = 0
                asyncio.run(self._tail(job, new))
                status = self._status(job)
            except Exception as error:
                away = away or Wait(lambda: f"the cluster at {redacted(self.address)}, which is away")
                if away.look() > PATIENCE_S or "does not exist" in str(error):
                    raise SubmissionError(
                        f"lost sight of job {job} at {self.address} ({_line(error)}); if its head was "
                        "replaced, submit the same run again: it continues"
                    ) from error
                time.sleep(2)
                continue
            if status in ENDED:
                return status
            time.sleep(1)

    async def _tail(self, job: str, new: Callable[[str], None]) -> None:
        """Give the log from its beginning to `new`, as it grows; returns when the head says that it is whole.

        Raises what the client does, also for a head that has stopped to answer.
        """
        lines = self._client.tail_job_logs(job)
        while True:
            following = asyncio.ensure_future(anext(lines, None))
            while not (await asyncio.wait([following], timeout=QUIET_S))[0]:
                await asyncio.to_thread(self._status, job)
            if (text := following.result()) is None:
                return
            new(text)

    def _status(self, job: str) -> str:
        with self._voice():
            return str(within(REQUEST_TIMEOUT_S, lambda: self._client.get_job_status(job)).value)

    def why(self, job: str) -> str:
        """Ray's own word on how the job ended."""
        message = _line(self._ask(lambda: self._client.get_job_info(job)).message or "")
        return message.partition(", last available logs")[0]  # they were shown as they came

    def _voice(self) -> contextlib.AbstractContextManager[None]:
        return waiting_for(lambda: f"Ray's dashboard at {redacted(self.address)}, which does not answer")

    def _ask(self, call: Callable[[], Any], timeout_s: float | None = None) -> Any:
        try:
            with self._voice():
                return within(timeout_s or REQUEST_TIMEOUT_S, call)
        except Exception as error:
            raise SubmissionError(_words(error, self.address)) from error


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    logging.getLogger("ray").setLevel(logging.WARNING)  # what it uploads, and each connection that it closes
    return client


@dataclass(frozen=True)
class Submission:
    """A run as it is submitted."""

    run_id: str
    command: Sequence[str]
    """Of `ekd`, to be run in the uploaded folder."""
    files: Mapping[str, Path]
    """Experiment and space where they are one's own, by their paths in that folder."""
    code_version: str


def start(submission: Submission, address: str, say: Callable[[str], None]) -> str:
    """Submit a run to the cluster at `address`, unless it is running there already; the job's name.

    `say` is called with each line that says what happens. Raises `SubmissionError`.
    """
    jobs = Jobs(address)
    job, running = decide(submission.run_id, jobs.statuses())
    if not running:
        with upload_folder(submission.files) as folder:
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            say(f"submitting job {job} to {address} ({size / 1e6:.1f} MB of code)")
            try:
                variables = {"EKD_CODE_VERSION": submission.code_version}
                command = ["python", "-m", "orchestrator", *submission.command, "--run-id", submission.run_id]
                name = f"ekd {submission.command[0]} {submission.run_id}"
                jobs.submit(job, name, command, folder, variables)
            except SubmissionError:
                job, running = decide(submission.run_id, jobs.statuses())
                if not running:
                    raise  # else somebody was quicker with the same run
    if running:
        say(f"job {job}: this run is running already; attached to it")
    return job


def follow(job: str, address: str, say: Callable[[str], None]) -> int:
    """Show the job's log until it ends or Ctrl-C lets go of it; 0 if it succeeded, else 1."""
    jobs = Jobs(address)
    try:
        status = jobs.follow(job, lambda text: print(visible(text), end="", flush=True))
    except KeyboardInterrupt:
        say(
            f"\nlet go of job {job}, which runs on; the same command attaches to it again; "
            f"to stop it: ray job stop --address {address} {job}"
        )
        return 1
    if status != SUCCEEDED:
        why = jobs.why(job)
        nothing_started = re.search(r"exit code 2\b", why)
        then = "nothing was started: mend what it says above, then the same command"
        say(
            f"job {job} {status.lower()}: {why}; "
            f"{then if nothing_started else 'the same command continues the run'}"
        )
        return 1
    return 0


def _words(error: Exception, address: str) -> str:
    text, kind = _line(error), type(error).__name__
    if kind == "AuthenticationError" or "Unauthorized" in text or _REFUSED.search(text):
        return (
            f"the cluster at {address} refuses us: Ray's token authentication is on and no token, or another "
            "one, was sent; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or put the cluster's token, which "
            "`ray get-auth-token` prints on its head, into ~/.ray/auth_token)"
        )
    if isinstance(error, ConnectionError) or "connect" in text.lower():
        return (
            f"cannot reach a Ray dashboard at {address}; the address is http://HEAD:8265, the head must be "
            "started with --dashboard-host=0.0.0.0 or reached through a tunnel (ssh -L, kubectl port-forward)"
        )
    if "No available agent to submit job" in text:
        text += (
            " The head's agent does not listen: is its port 52365 taken by another Ray on that host? Start "
            "the head with another --dashboard-agent-listen-port"
        )
    return f"the cluster at {address}: {text}"


def _line(text: object) -> str:
    message = str(text)
    with contextlib.suppress(ValueError):  # the API answers with JSON
        found = read_bounded_json(message)
        message = str(found.get("msg", message)) if isinstance(found, dict) else message
    return one_line(message, 400)

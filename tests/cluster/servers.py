"""The servers that a cluster leans on, each a real process on a host: S3, PostgreSQL, MLflow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config
from hosts import Host, Inside


class HasLog(Protocol):
    """What says in its log why something did not happen."""

    log: str


BUCKET = "bucket"
KEY_ID, SECRET = "AKIAEXAMPLEEXAMPLE", "example/secret/of/no/worth"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

# One request at a time: moto checks the condition of a write and writes in two steps. A host that loses power
# in the midst of one must not keep the server from all others, as it would without a time limit.
_MOTO = """
import os, random
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple
moto = DomainDispatcherApplication(create_backend_app)
def throttled(environ, start_response):
    observed = "observer" in environ.get("HTTP_USER_AGENT", "")
    if observed or not os.path.exists("throttled") or random.random() < 0.5:
        return moto(environ, start_response)
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("503 Slow Down", [("Content-Type", "application/xml")])
    return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
WSGIRequestHandler.timeout = 3
run_simple("0.0.0.0", 9000, throttled, threaded=False)
"""


def why_impossible() -> str | None:
    """Why these servers cannot be had here; None if they can."""
    if not POSTGRES:
        return "needs PostgreSQL (Debian: postgresql)"
    if shutil.which("setpriv") is None:
        return "needs setpriv (Debian: util-linux)"
    for module in ("moto", "psycopg2"):
        try:
            __import__(module)
        except ImportError:
            return f"needs the Python module {module}"
    return None


HANGS_S = 600.0
"""What takes longer hangs. Waiting is no measurement: on a busy machine it may take ten times as long."""


def wait_until(true, what: str, log: HasLog | None = None) -> float:
    """Seconds until `true()` is true; it counts as false while it raises OSError."""
    began = time.monotonic()
    while time.monotonic() - began < HANGS_S:
        try:
            if true():
                return time.monotonic() - began
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {HANGS_S:.0f} s\n{log.log if log else ''}")


def end(process: subprocess.Popen | None) -> None:
    """Kill a process that `Host.start` started, and wait for it."""
    if process is not None and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class ObjectStore:
    """moto's S3 server; it can be stopped without forgetting, and its objects damaged."""

    def __init__(self, host: Host) -> None:
        self.host, self.url = host, f"http://{host.address}:9000"
        self._process = host.start(sys.executable, "-c", _MOTO, log="s3.log")
        self._inside = Inside(host)
        self._client = self._new_client("s3", KEY_ID, SECRET)
        wait_until(self._answers, "S3")
        self._inside(self._client.create_bucket, Bucket=BUCKET)

    def keys(self, prefix: str = "") -> list[str]:
        """Names of the objects that begin with `prefix`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return self._inside(lambda: [item["Key"] for page in pages for item in page.get("Contents", [])])

    def read(self, key: str) -> bytes:
        """An object's bytes."""

        def get() -> bytes:
            return self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

        return self._inside(get)

    def write(self, key: str, data: bytes) -> None:
        """Replace an object."""
        self._inside(self._client.put_object, Bucket=BUCKET, Key=key, Body=data)

    def remove(self, prefix: str) -> None:
        """Every object whose name begins with `prefix`."""
        for key in self.keys(prefix):
            self._inside(self._client.delete_object, Bucket=BUCKET, Key=key)

    def stop(self) -> None:
        """Stop answering, connections that are open included."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        for pid in self.host.processes("moto.server"):
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again, nothing forgotten."""
        for pid in self.host.processes("moto.server"):
            os.kill(pid, signal.SIGCONT)
        os.killpg(self._process.pid, signal.SIGCONT)

    @contextmanager
    def throttled(self) -> Iterator[None]:
        """Within, every second request of a run, by chance, is answered with 503 SlowDown."""
        flag = self.host.folder / "throttled"
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()

    @contextmanager
    def new_keys(self) -> Iterator[tuple[str, str]]:
        """Within, every key that was valid before is refused; these, and only these, are not."""
        first = self._client
        iam = self._new_client("iam", KEY_ID, SECRET)
        policy = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}

        def make(user: str) -> tuple[str, str]:
            iam.create_user(UserName=user)
            iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=json.dumps(policy))
            made = iam.create_access_key(UserName=user)["AccessKey"]
            return made["AccessKeyId"], made["SecretAccessKey"]

        number = time.monotonic_ns()
        renewed, observer = self._inside(make, f"run-{number}"), self._inside(make, f"observer-{number}")
        self._inside(self._check_after, b"0")
        self._client = self._new_client("s3", *observer)
        try:
            yield renewed
        finally:
            self._client = first
            self._inside(self._check_after, b"inf")

    def _check_after(self, requests: bytes) -> None:
        plain = {"Content-Type": "text/plain"}  # a form's data, urllib's default, would not reach moto
        asked = Request(f"{self.url}/moto-api/reset-auth", data=requests, headers=plain, method="POST")
        urlopen(asked, timeout=10).close()

    def _new_client(self, service: str, key_id: str, secret: str):
        keys = {"aws_access_key_id": key_id, "aws_secret_access_key": secret, "region_name": "us-east-1"}
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, user_agent_extra="observer"
        )
        return boto3.session.Session(**keys).client(service, endpoint_url=self.url, config=config)

    def close(self) -> None:
        self._inside.close()
        end(self._process)

    def _answers(self) -> bool:
        try:
            self._inside(self._client.list_buckets)
        except Exception:
            return False
        return True


class TrackingServer:
    """`mlflow server` with PostgreSQL behind it, on one host; both keep what they have over a stop."""

    def __init__(self, host: Host) -> None:
        self.host, self.uri = host, f"http://{host.address}:5000"
        self._data = host.folder / "postgres"
        self._data.mkdir()
        shutil.chown(self._data, "postgres", "postgres")
        self._database: subprocess.Popen | None = None
        self._server: subprocess.Popen | None = None
        self._postgres("initdb", "-D", str(self._data), "--auth=trust", "--no-sync", "-U", "postgres")
        self.start()

    def start(self) -> None:
        """Start both and wait until the server answers."""
        data = str(self._data)
        self._database = self.host.start(
            *self._as_postgres("postgres", "-D", data, "-k", "", "-h", "127.0.0.1", "-F"), log="postgres.log"
        )
        ready = str(POSTGRES[-1] / "pg_isready")
        wait_until(
            lambda: self.host.call(ready, "-h", "127.0.0.1", "-U", "postgres").returncode == 0,
            "PostgreSQL",
        )
        self._server = self.host.start(
            *(sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000"),
            *("--workers", "1", "--backend-store-uri", "postgresql+psycopg2://postgres@127.0.0.1/postgres"),
            # Artifacts are to go to S3 directly: what the proxy is sent lands in a folder that stays empty.
            *("--artifacts-destination", str(self.proxied), "--serve-artifacts"),
            log="mlflow.log",
            # Its job consumers, which nobody here needs, are seven more processes that import MLflow.
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        )
        inside = Inside(self.host)
        try:
            wait_until(lambda: inside(_is_healthy, f"{self.uri}/health"), "MLflow")
        finally:
            inside.close()

    @property
    def proxied(self) -> Path:
        """Where artifacts end that went through the server."""
        return self.host.folder / "proxied"

    def kill(self) -> None:
        """kill -9 of the server and its database."""
        end(self._server)
        end(self._database)
        for pid in self.host.processes("mlflow") + self.host.processes("postgres"):
            os.kill(pid, signal.SIGKILL)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        """`kill`, and start again at once."""
        self.kill()
        self.start()

    def _as_postgres(self, program: str, *arguments: str) -> list[str]:
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return [*user, str(POSTGRES[-1] / program), *arguments]

    def _postgres(self, program: str, *arguments: str) -> None:
        done = self.host.call(*self._as_postgres(program, *arguments))
        assert done.returncode == 0, done.stderr


def _is_healthy(url: str) -> bool:
    with urlopen(url, timeout=2) as answer:
        return answer.status == 200

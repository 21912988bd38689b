"""Which Ray cluster a run uses, and whether it answers: found out without Ray, in seconds."""

import contextlib
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import ExperimentError
from orchestrator.experiment.hosts import is_malformed, why_exposed
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.redaction import redacted
from orchestrator.planning.capacity import HERE, Capacity, Node
from orchestrator.runtime.environment import in_the_environment

GPUS = Path("/proc/driver/nvidia/gpus")
"""A folder for each NVIDIA GPU of this machine."""

LISTENING = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

SETTINGS = b"\4"
"""The type of the frame with which both sides of gRPC begin (RFC 9113, section 3.4)."""

GRPC_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)


def local_capacity() -> Capacity:
    """What a Ray started on this machine would have, without starting it."""
    there = len(list(GPUS.iterdir())) if GPUS.is_dir() else 0
    return Capacity((Node(len(os.sched_getaffinity(0)), min(there, _visible(there))),), HERE)


def _visible(there: int) -> int:
    """How many GPUs CUDA_VISIBLE_DEVICES names, up to the first that is none (CUDA's programming guide)."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return there
    return len(list(takewhile(lambda name: re.match(r"\s*(\d|GPU-|MIG-)", name), named.split(","))))


def wanted_address(cluster: Cluster) -> str | None:
    """The address of a running cluster to use, or None to start Ray on this machine.

    The experiment's ("local": none), else RAY_ADDRESS, else that of a cluster started here with
    `ray start` by this user, if it still answers: a cluster that was killed leaves its note behind.
    """
    if address := named_address(cluster):
        return None if address == "local" else address
    noted = _noted()
    return noted if noted and why_unreachable(noted) is None else None


def named_address(cluster: Cluster) -> str | None:
    """The address that experiment or environment name; None: what `ray start` has noted is used, if anything.

    Ray takes its token along by itself to a cluster that is not named, and to "auto", but to no other.
    """
    return cluster.address or os.environ.get("RAY_ADDRESS") or None


def note_of_ray_start() -> Path:
    """Where `ray start` notes the address of the cluster that it started on this machine."""
    return folder_of_ray() / "ray_current_cluster"


def folder_of_ray() -> Path:
    """Where a Ray that is started on this machine keeps its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


@contextlib.contextmanager
def loopback_alone(cluster: Cluster) -> Iterator[None]:
    """A Ray that is imported within it, and started by this process, listens on 127.0.0.1 alone.

    Ray's default on Linux is this machine's address in its network, on macOS and Windows the loopback, and
    the variable chooses between them (https://docs.ray.io/en/latest/cluster/getting-started.html).
    """
    ours = {} if LISTENING in os.environ or wanted_address(cluster) else {LISTENING: "0"}
    with in_the_environment(ours):
        yield


def _noted() -> str:
    """What `ray start` by this user or root has noted, else "": anybody may write in that folder."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        file = os.open(note_of_ray_start(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file) as note:
            found = os.fstat(note.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_uid in (os.geteuid(), 0):
                return note.read(1000).strip()
    return ""


def why_unreachable(address: str) -> str | None:
    """Why nothing can be reached at Ray's `address`, found in seconds; None if something answers.

    Ray 2.60 itself was still waiting after eight minutes.
    """
    if address == "auto":  # Ray looks in the same note first, and then among the processes of this machine
        address = _noted()
        if not address:
            return None
    wanted = "it is not host:port or ray://host:port"
    if is_malformed(address):
        return wanted
    parts = urlsplit(address if "://" in address else f"//{address}")
    host, port = parts.hostname, parts.port
    if host is None or (port is None and parts.scheme != "ray"):
        return wanted
    try:
        with socket.create_connection((host, port or 10001), timeout=5) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return _why_no_tls(connection)
            connection.sendall(GRPC_GREETING)
            answer = connection.recv(9)
    except OSError as error:
        reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or error
        return f"nothing answers there ({reason})"
    if answer[3:4] != SETTINGS:
        return "what answers there is not Ray (its port is 6379, or 10001 with ray://; not the dashboard)"
    return None


def _why_no_tls(connection: socket.socket) -> str | None:
    """Who it is, Ray itself finds out by its certificates: here nothing is said that others may not hear."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.wrap_socket(connection).close()
    except ssl.SSLError as error:  # of those, others may be answers of a server that wants a certificate
        if error.reason == "WRONG_VERSION_NUMBER":
            return "what answers there does not speak TLS, and RAY_USE_TLS is set"
    return None


def dashboard_url(address: str) -> str:
    """The dashboard that `--address` means: http where no scheme is given. Raises `ExperimentError`.

    >>> dashboard_url("head:8265")
    'http://head:8265'
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        known = (
            parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
        )
    except ValueError:
        known = False
    if not known:
        raise ExperimentError(
            f"--address {redacted(address)}: write the address of Ray's dashboard, http://HEAD:8265, without "
            "credentials"
        )
    return url.rstrip("/")


def token_file() -> Path:
    """Where Ray looks for its token: RAY_AUTH_TOKEN_PATH, else `~/.ray/auth_token`."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def exposed_token(address: str) -> str | None:
    """Why the token, if there is one, should not go to a Ray at `address`; None if it may."""
    encrypted = os.environ.get("RAY_USE_TLS", "0") != "0" or address.startswith("https:")
    there = os.environ.get("RAY_AUTH_TOKEN") or token_file().exists()
    return why_exposed(address, "Ray's token") if there and not encrypted and address != "auto" else None

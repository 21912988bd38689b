"""The door to Ray: starting it or connecting to it, what it has, and leaving it."""

import atexit
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray

from ekd_train.waiting import waiting_for
from ekd_train.workers.allocator import KEEP_FREED_MEMORY
from orchestrator.errors import EkdError
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.redaction import one_line
from orchestrator.planning.capacity import HERE, Capacity, Node
from orchestrator.runtime.address import (
    exposed_token,
    folder_of_ray,
    local_capacity,
    named_address,
    note_of_ray_start,
    token_file,
    wanted_address,
    why_unreachable,
)
from orchestrator.runtime.cluster_leftovers import guard_cluster
from orchestrator.runtime.deadline import within
from orchestrator.runtime.environment import in_the_environment
from orchestrator.runtime.leftovers import end_processes_of, guard, sweep_sessions
from orchestrator.runtime.ray_errors import advice
from orchestrator.runtime.ray_logging import divert_logging, quiet_stderr, quieten
from orchestrator.runtime.ray_private import node_groups
from orchestrator.runtime.starting import TooSlow, connected, started, why_no_room

POLL_S = "0.5"
"""How often Ray Train's controller looks after its workers: how soon it sees a death or an end."""

GROWING_S = "1800"
"""How long workers may take to come up where machines are started for them; Ray's default is a minute."""

AS_NICE_AS_THE_DRIVER = {"RAY_worker_niceness": "0"}
"""For a Ray of our own, which is there to train. Ray's 15 lets all else on the machine go first, and of two
workers that wait for each other the one that is held up holds up both."""

START_ATTEMPTS = 3
"""Ray gives its own daemons 30 s to come up, which is not enough on a busy machine."""

LEAVING_S = 30.0
"""How long leaving a cluster may take; a daemon that was stopped or hangs would be waited for much longer."""

log = logging.getLogger(__name__)

_session: dict[str, Any] = {}
"""What `ray.init` said of the session that this process uses."""

_guards: list[Any] = []
"""Processes that outlive this one, and end what is left of a Ray of its own."""

_cluster_guards: list[Any] = []
"""The same for what is left of this one's trainings on a cluster that goes on."""


class LaunchError(EkdError):
    """Ray could not be reached or started, or a worker group could not go on."""


def start_ray(
    cluster: Cluster,
    log_file: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Capacity:
    """Connect to a cluster or start Ray here; what it has. Ray's own messages go to `log_file`.

    `environment`: variables for every worker process, on whatever host, beside those of
    `ekd_train.workers.allocator`; addresses, never credentials, because Ray shows them to whoever may look
    at its jobs. Raises `LaunchError`.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    divert_logging(log_file)
    address = wanted_address(cluster)
    variables = variables_for_workers(environment, own=address is None)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": int(local_capacity().nodes[0].cpus),
        }
    else:
        # One that is not named Ray finds for itself, by the same note, and only then takes its token along.
        options |= {"address": named_address(cluster), "runtime_env": {"env_vars": variables}}
        if reason := why_unreachable(address):
            raise LaunchError(
                f"cluster.address {address}: {reason}; start that cluster, or set cluster.address or "
                "RAY_ADDRESS to one that runs (cluster.address=local: this machine)"
            )
        if address == cluster.address and (exposed := exposed_token(address)):
            raise LaunchError(f"cluster.address {address}: {exposed}")
    if address is None:
        sweep_sessions(folder_of_ray())
        if full := why_no_room(folder_of_ray()):
            raise LaunchError(f"Ray cannot start on this machine: {full}")
    try:
        with quiet_stderr(log_file), _sigterm_kept():
            if address is not None:
                _init(options, 1, address)
            else:
                # Its processes inherit them, daemons too: with a runtime environment each worker would be
                # started twice.
                with in_the_environment(variables), private_token():
                    _init(options, START_ATTEMPTS, None)
        atexit.register(quieten, log_file)  # runs before Ray's own, which leaves the cluster
        if address is None and (folder := _session.get("session_dir")):
            _guards.append(guard(Path(folder)))
        elif address is not None:
            _cluster_guards.append(guard_cluster(options["address"]))
    except Exception as error:
        where = f"connect to Ray at {address}" if address else "start Ray on this machine"
        problem = f"could not {where}: {one_line(error, 300)}; see {log_file}"
        reason = _unnamed(address, error) if address else why_no_room(folder_of_ray())
        raise LaunchError(f"{problem}; {reason or advice(error)}") from error
    with waiting_for(lambda: "Ray to say which machines there are"):
        capacity = cluster_capacity(address or HERE)
    if capacity.groups:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", GROWING_S)
    return capacity


def variables_for_workers(environment: Mapping[str, str], *, own: bool) -> dict[str, str]:
    """`environment` and ours, but for what the user has set: that stays.

    (On a cluster it must not even be named: Ray refuses a variable that a submitted job has already.)
    `own`: Ray is started by and for this run.
    """
    ours = {**KEEP_FREED_MEMORY, **AS_NICE_AS_THE_DRIVER} if own else KEEP_FREED_MEMORY
    return {name: value for name, value in ours.items() if name not in os.environ} | dict(environment)


def _unnamed(address: str, error: Exception) -> str | None:
    note = note_of_ray_start()
    if address != "auto" or note.exists() or not isinstance(error, TooSlow):
        return None
    return (
        f"`ray start` has noted no cluster in {note}, so that Ray looks for any on this machine: name "
        "yours, host:port, in RAY_ADDRESS or cluster.address (cluster.address=local: one of its own)"
    )


def _init(options: dict[str, Any], attempts: int, address: str | None) -> None:
    global _session
    for left in reversed(range(attempts)):
        try:
            if address is None:
                context = started(lambda: ray.init(**options), folder_of_ray())
            else:
                context = connected(lambda: ray.init(**options), address)
            _session = dict(getattr(context, "address_info", {}))  # a client of ray:// has none
            return
        except TooSlow:
            atexit.unregister(ray.shutdown)  # Ray's own, which may wait for the same
            raise
        except Exception as error:
            if not left or why_no_room(folder_of_ray()):
                raise
            log.warning("Ray did not start, trying again: %s", error)
            ray.shutdown()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """`ray.init` makes SIGTERM exit with status 15; the driver decides itself what it does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cluster_capacity(where: str) -> Capacity:
    """What the connected cluster has now, and what its autoscaler may add."""
    nodes = tuple(
        Node(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0))
        for n in ray.nodes()
        if n["Alive"]
    )
    return Capacity(nodes, where, node_groups())


def listening_address() -> str:
    """Where Ray listens on this machine."""
    return str(ray.util.get_node_ip_address())


def ray_logs() -> str | None:
    """The folder of Ray's session logs on the head node; None if it is not known here."""
    folder = _session.get("session_dir")
    return f"{folder}/logs" if folder else None


def stop_ray() -> None:
    """Leave the cluster, or stop the one that was started; everything of this run in it ends.

    Takes 30 s at most; what then is left of a Ray of our own is killed.
    """
    try:
        if ray.is_initialized():
            with waiting_for(lambda: "Ray to be left"):
                within(LEAVING_S, ray.shutdown)
    except ConnectionError:
        log.error("Ray could not be left within %g s", LEAVING_S)
        atexit.unregister(ray.shutdown)  # Ray's own, which would wait once more
        if _guards:
            end_processes_of(Path(_session["session_dir"]))
    while _guards:  # a process that goes on, from Python, has nothing more to be guarded
        _guards.pop().stdin.close()
    while _cluster_guards:  # what was left in order has left nothing
        guarding = _cluster_guards.pop()
        guarding.kill()
        guarding.communicate()


@contextlib.contextmanager
def private_token() -> Iterator[None]:
    """Within it Ray may make its token; afterwards only this user can read it.

    Whoever has it may run code as this user, and Ray writes it for everybody to read.
    """
    file = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # there is none, or it is not this user's
            file.chmod(0o600)


def token_warning() -> str | None:
    """Why the token is no secret and what to do, in one line; None if it is one, or there is none."""
    file = token_file()
    try:
        exposed = file.stat().st_mode & 0o077
    except OSError:
        return None
    return f"others can read Ray's token: chmod 600 {file}" if exposed else None

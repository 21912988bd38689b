"""The door to Ray: starting it or connecting to it, what it has, and leaving it."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from ekd_train.workers.allocator import KEEP_FREED_MEMORY
from orchestrator.errors import EkdError
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.planning.capacity import HERE, Capacity, Node, NodeGroup
from orchestrator.runtime.address import local_capacity, wanted_address, why_unreachable
from orchestrator.runtime.environment import in_the_environment
from orchestrator.runtime.ray_logging import divert_logging, quiet_stderr, quieten
from orchestrator.runtime.token import private_token

T = TypeVar("T")

POLL_S = "0.5"
"""How often Ray Train's controller looks after its workers: how soon it sees a death or an end."""


GROWING_S = "1800"
"""How long workers may take to come up where machines are started for them; Ray's default is a minute."""

MANY_NODES = 1000
"""What an autoscaler without a limit is taken for."""


NEEDED_NEXT = (
    "orchestrator.runtime.process_group",
    "orchestrator.runtime.trainer",
    "ekd_train.workers.worker",
)
"""What the driver imports to start workers: seconds, in which Ray's own processes can come up."""


ONLY_TRAINING = {
    "RAY_worker_niceness": "0",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "1e9",
    "RAY_enable_metrics_collection": "0",
}
"""For a Ray of our own, which is there to train. Its workers are as nice as the driver: Ray's 15 lets all
else on the machine go first, and of two that wait for each other the one that is held up holds up both.
No lines of log files are gathered for a driver that does not show them (the files are written all the same),
and no metrics exported that nobody fetches. docs/log.md has the figures."""


START_ATTEMPTS = 3
"""Ray gives its own daemons 30 s to come up, which is not enough on a busy machine."""


log = logging.getLogger(__name__)


class LaunchError(EkdError):
    """Ray could not be reached or started, or a worker group could not go on."""


def start_ray(
    cluster: Cluster,
    log_file: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    *,
    attempts: int = START_ATTEMPTS,
) -> Capacity:
    """Connect to a cluster or start Ray here; what it has. Ray's own messages go to `log_file`.

    `environment`: variables for every worker process, on whatever host, beside those of
    `ekd_train.workers.allocator`; addresses, never credentials, because Ray shows them to whoever may look
    at its jobs. `attempts` are to start it here. Raises `LaunchError`.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    divert_logging(log_file)
    address = wanted_address(cluster)
    variables = variables_for_workers(environment, own=address is None)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        # Each is a process more that imports Ray: nobody takes a machine away from a Ray of its own, and
        # without a dashboard nobody sees Ray Train's metrics.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": int(local_capacity().nodes[0].cpus),
        }
    else:
        options |= {"address": address, "runtime_env": {"env_vars": variables}}
        if reason := why_unreachable(address):
            raise LaunchError(
                f"cluster.address {address}: {reason}; start that cluster, or set cluster.address or "
                "RAY_ADDRESS to one that runs (cluster.address=local: this machine)"
            )
    try:
        with quiet_stderr(log_file), _sigterm_kept():
            if address is not None:
                _init(options, 1)
            elif not _started_here():
                # Its processes inherit them, daemons too: with a runtime environment each worker would be
                # started twice.
                with in_the_environment(variables), private_token():
                    _init(options, attempts)
        atexit.register(quieten, log_file)  # runs before Ray's own, which leaves the cluster
    except Exception as error:
        where = f"connect to Ray at {address}" if address else "start Ray on this machine"
        if isinstance(error, PermissionError):
            hint = "Ray keeps a token in ~/.ray: set HOME to a folder that this user may write"
        else:
            hint = "`ekd doctor` checks the cluster; with token authentication it needs RAY_AUTH_TOKEN"
        why = " ".join(str(error).split())[:300]
        raise LaunchError(f"could not {where}: {why}; see {log_file}. {hint}") from error
    capacity = cluster_capacity(address or HERE)
    if capacity.groups:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", GROWING_S)
    return capacity


def variables_for_workers(environment: Mapping[str, str], *, own: bool) -> dict[str, str]:
    """`environment` and ours, but for what the user has set: that stays.

    (On a cluster it must not even be named: Ray refuses a variable that a submitted job has already.)
    `own`: Ray is started by and for this run.
    """
    ours = {**KEEP_FREED_MEMORY, **ONLY_TRAINING} if own else KEEP_FREED_MEMORY
    return {name: value for name, value in ours.items() if name not in os.environ} | dict(environment)


def start_ray_beside(cluster: Cluster, environment: Mapping[str, str], work: Callable[[], T]) -> T:
    """`work()`, done while Ray starts on this machine, for the next `start_ray` to find.

    Ray starts on this thread, because its processes end with the thread that started them. It is
    stopped if `work` raises; that it could not be started, the next `start_ray` says.
    """
    done, ray_is_imported = Future[T](), threading.Event()

    def aside() -> None:
        try:
            found = work()
            ray_is_imported.wait()
            import_all(NEEDED_NEXT)
            done.set_result(found)
        except BaseException as error:
            done.set_exception(error)

    # A daemon: whoever interrupts this is not to wait for a store that does not answer.
    threading.Thread(target=aside, name="checks", daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="ekd-") as folder:
        try:
            import ray  # noqa: F401, before the other thread imports what is below it

            ray_is_imported.set()
            with contextlib.suppress(LaunchError):
                start_ray(cluster, Path(folder) / "ray.log", environment, attempts=1)
            return done.result()
        except BaseException:
            stop_ray()
            raise


def import_all(modules: Sequence[str]) -> None:
    """Import them, one after the other; what fails here fails again where it is needed."""
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def _started_here() -> bool:
    import ray

    return ray.is_initialized()


def _init(options: dict[str, Any], attempts: int) -> None:
    import ray

    for left in reversed(range(attempts)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if not left:
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
    import ray
    from ray._private.state import state

    nodes = tuple(
        Node(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0))
        for n in ray.nodes()
        if n["Alive"]
    )
    config = state.get_cluster_config()
    groups = tuple(
        NodeGroup(Node(g.resources.get("CPU", 0), g.resources.get("GPU", 0)), _at_most(g.max_count))
        for g in (config.node_group_configs if config is not None else ())
        if g.max_count
    )
    return Capacity(nodes, where, groups)


def _at_most(most: int) -> int:
    return most if most >= 0 else MANY_NODES


def ray_logs() -> str | None:
    """The folder of Ray's session logs on the head node."""
    import ray

    context = ray.get_runtime_context() if ray.is_initialized() else None
    node = ray._private.worker._global_node if context else None
    return node.get_logs_dir_path() if node is not None else None


def stop_ray() -> None:
    """Leave the cluster, or stop the one that was started; everything of this run in it ends."""
    import ray

    ray.shutdown()

"""The door to Ray: starting it, what it has, and the warm worker group that does the training.

The only builder of a Ray Train trainer. One `fit` stays up for the whole `ekd run`; its workers
form lanes that take one job after another from the dispatcher (docs/adr/0002).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from orchestrator.capacity import HERE, Capacity, Node, NodeGroup, runs_at_once
from orchestrator.cluster_address import local_capacity, wanted_address, why_unreachable
from orchestrator.dispatcher import Event, LaneDesk, open_dispatcher
from orchestrator.experiment import Cluster
from orchestrator.failure import cause_of
from orchestrator.messages import divert_logging, quiet_stderr, quieten
from orchestrator.storage import Storage
from orchestrator.storage.vendor_settings import ray_storage

POLL_S = "0.5"
"""How often Ray Train's controller looks after its workers: how soon it sees a death or an end."""


GROWING_S = "1800"
"""How long workers may take to come up where machines are started for them; Ray's default is a minute."""

MANY_NODES = 1000
"""What an autoscaler without a limit is taken for."""


START_ATTEMPTS = 3
"""Ray gives its own daemons 30 s to come up, which is not enough on a busy machine."""


log = logging.getLogger(__name__)


class LaunchError(RuntimeError):
    """Ray could not be reached or started, or a worker group could not go on."""


def start_ray(
    cluster: Cluster, log_file: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Capacity:
    """Connect to a cluster or start Ray here; what it has. Ray's own messages go to `log_file`.

    `environment`: variables for every worker process, on whatever host; addresses, never
    credentials, because Ray shows them to whoever may look at its jobs. Raises `LaunchError`.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    divert_logging(log_file)
    address = wanted_address(cluster)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if environment:
        options["runtime_env"] = {"env_vars": dict(environment)}
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
        options["address"] = address
        if reason := why_unreachable(address):
            raise LaunchError(
                f"cluster.address {address}: {reason}; start that cluster, or set cluster.address or "
                "RAY_ADDRESS to one that runs (cluster.address=local: this machine)"
            )
    try:
        with quiet_stderr(log_file), _sigterm_kept():
            _init(options, START_ATTEMPTS if address is None else 1)
        atexit.register(quieten, log_file)  # before Ray's own, which leaves the cluster
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


def share(value: Any) -> Any:
    """`value` in Ray's object store: its arrays live once on every node that needs them."""
    import ray

    return ray.put(value)


class WorkerGroup:
    """The warm workers of one `ekd run`, the dispatcher they work from, and the data they see."""

    def __init__(
        self,
        cluster: Cluster,
        store: Storage,
        data: Any,
        keep_checkpoints: int,
    ) -> None:
        """`data`: a `ray.ObjectRef` of (arrays, description), one copy a node, shared by all workers."""
        self.cluster, self.store = cluster, store
        self.keep_checkpoints = keep_checkpoints
        self.dispatcher = open_dispatcher()
        self.data = data
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None
        self._closing = False

    def start(self, capacity: Capacity, runs: int) -> int:
        """Bring up the workers of as many lanes as there is room for, at most `runs`; how many lanes."""
        lanes = 1 if self.cluster.elastic else runs_at_once(self.cluster, capacity, runs)
        fewest, most = self.cluster.fewest_workers, lanes * self.cluster.most_workers
        if capacity.own and not self.cluster.elastic:
            fewest = most  # in a Ray of our own nothing is lost or gained, and Ray Train need not watch
        self.thread = threading.Thread(target=self._serve, args=(fewest, most), name="workers", daemon=True)
        self.thread.start()
        return lanes

    def add(self, jobs: list[Any]) -> None:
        """Queue jobs, first come first served."""
        import ray

        ray.get(self.dispatcher.add.remote(jobs))

    def news(self, timeout_s: float = 0.5) -> list[Event]:
        """What happened since the last call. Raises `LaunchError` when the workers cannot go on."""
        import ray

        events: list[Event] = ray.get(self.dispatcher.drain.remote(timeout_s))
        if self.failure is not None and not any(event.kind == "failed" for event in events):
            raise LaunchError(cause_of(str(self.failure))) from self.failure
        if not events and self.thread is not None and not self.thread.is_alive():
            raise LaunchError("the workers ended before their work was done; see Ray's session logs")
        return events

    def close(self, timeout_s: float = 15.0) -> bool:
        """Let the workers end; whether they have, within `timeout_s`."""
        self._closing = True
        self.dispatcher.close.remote()
        if self.thread is not None:
            self.thread.join(timeout_s)
        return self.thread is None or not self.thread.is_alive()

    def abandon(self) -> None:
        """Give workers that are started again nothing to do; their errors are of no interest any more."""
        self._closing = True
        self.dispatcher.abandon.remote()

    def _serve(self, fewest: int, most: int) -> None:
        try:
            self._trainer(fewest, most).fit()
        except BaseException as error:
            if not self._closing:
                self.failure = error

    def _trainer(self, fewest: int, most: int) -> Any:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.v2.api.config import FailureConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        from ekd_train.worker import Post, work
        from orchestrator.process_group import ProcessGroupConfig

        cluster = self.cluster
        resources: dict[str, float] = {"CPU": cluster.cpus_per_worker}
        if cluster.gpus_per_worker:
            resources["GPU"] = cluster.gpus_per_worker
        path, filesystem = ray_storage(self.store)
        post = Post(
            desk=LaneDesk(self.dispatcher),
            store=self.store,
            data=self.data,
            workers_per_lane=cluster.workers_per_run if isinstance(cluster.workers_per_run, int) else None,
            cpus_per_worker=cluster.cpus_per_worker,
            keep_checkpoints=self.keep_checkpoints,
        )
        return DataParallelTrainer(
            work,
            train_loop_config={"post": share(post)},
            backend_config=ProcessGroupConfig(),
            scaling_config=ScalingConfig(
                # Between one lane and all of them: a lost host costs its lanes, not the run.
                num_workers=most if fewest == most else cast(Any, (fewest, most)),
                use_gpu=bool(cluster.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                # Ray keeps nothing of use here: checkpoints are ours, and a name is used once.
                name=f"ray/workers-{time.time_ns()}",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(
                    max_failures=cluster.max_failures, controller_failure_limit=cluster.max_failures
                ),
            ),
        )

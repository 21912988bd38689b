"""The door to Ray: starting it, what it has, and the warm worker groups that do the training.

The only builder of `TorchTrainer`. Each *lane* is one `TorchTrainer.fit` that stays up for the
whole `ekd run` and takes one job after another from the dispatcher (docs/adr/0002).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, cast

from orchestrator.capacity import Capacity, Node, runs_at_once
from orchestrator.dispatcher import Event, LaneDesk, open_dispatcher
from orchestrator.experiment import Cluster
from orchestrator.storage import Storage
from orchestrator.storage.vendor_settings import ray_storage

POLL_S = "0.5"
"""How often Ray Train's controller looks after its workers: how soon it sees a death or an end."""


STARTED_HERE = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` notes the address of the cluster that it started on this machine."""


class LaunchError(RuntimeError):
    """Ray could not be reached or started, or a worker group could not go on."""


def local_capacity() -> Capacity:
    """What a Ray started on this machine would have, without starting it."""
    gpus = Path("/proc/driver/nvidia/gpus")
    count = len(list(gpus.iterdir())) if gpus.is_dir() else 0
    return Capacity((Node(len(os.sched_getaffinity(0)), count),), "this machine")


def wanted_address(cluster: Cluster) -> str | None:
    """The address of a running cluster to use, or None to start Ray on this machine.

    The experiment's, else RAY_ADDRESS, else that of a cluster started here with `ray start`.
    """
    if address := cluster.address or os.environ.get("RAY_ADDRESS"):
        return address
    with contextlib.suppress(OSError):
        return STARTED_HERE.read_text().strip() or None
    return None


def start_ray(cluster: Cluster, log_file: Path) -> Capacity:
    """Connect to a cluster or start Ray here; what it has. Ray's own messages go to `log_file`.

    Raises `LaunchError`.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    divert_logging(log_file)
    import ray

    address = wanted_address(cluster)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": int(local_capacity().nodes[0].cpus),
        }
    else:
        options["address"] = address
    try:
        with _quiet_stderr(log_file):
            ray.init(**options)
    except Exception as error:
        where = f"connect to Ray at {address}" if address else "start Ray on this machine"
        raise LaunchError(
            f"could not {where}: {' '.join(str(error).split())[:300]}; see {log_file}. "
            "`ekd doctor` checks the cluster; one with token authentication needs RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    return cluster_capacity(address or "this machine")


def cluster_capacity(where: str) -> Capacity:
    """What the connected cluster has now, and what its autoscaler may add."""
    import ray
    from ray._private.state import state

    nodes = tuple(
        Node(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0))
        for n in ray.nodes()
        if n["Alive"]
    )
    grown = state.get_max_resources_from_cluster_config()
    limit = Node(grown.get("CPU", 0), grown.get("GPU", 0)) if grown else None
    return Capacity(nodes, where, limit)


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


class Lanes:
    """The worker groups of one `ekd run`, the dispatcher they work from, and the data they see."""

    def __init__(
        self,
        cluster: Cluster,
        store: Storage,
        arrays: dict[str, Any],
        description: dict[str, Any],
        keep_checkpoints: int,
    ) -> None:
        import ray

        self.cluster, self.store = cluster, store
        self.keep_checkpoints = keep_checkpoints
        self.dispatcher = open_dispatcher()
        self.data = ray.put((arrays, description))  # one copy a node, shared by all its workers
        self.failures: list[BaseException] = []
        self.threads: list[threading.Thread] = []
        self._closing = False

    def start(self, capacity: Capacity, runs: int) -> int:
        """Bring up as many lanes as there is room for, at most one for each of `runs`; how many."""
        count = runs_at_once(self.cluster, capacity, runs)
        for lane in range(count):
            thread = threading.Thread(target=self._serve, args=(lane,), name=f"lane-{lane}", daemon=True)
            thread.start()
            self.threads.append(thread)
        return count

    def add(self, jobs: list[Any]) -> None:
        """Queue jobs, first come first served."""
        import ray

        ray.get(self.dispatcher.add.remote(jobs))

    def news(self, timeout_s: float = 0.5) -> list[Event]:
        """What happened since the last call. Raises `LaunchError` when a lane cannot go on."""
        import ray

        events: list[Event] = ray.get(self.dispatcher.drain.remote(timeout_s))
        if self.failures and not any(event.kind == "failed" for event in events):
            raise LaunchError(" ".join(str(self.failures[0]).split())[:500]) from self.failures[0]
        return events

    def close(self, timeout_s: float = 15.0) -> None:
        """Let the lanes end; no more than `timeout_s` is waited for them."""
        self._closing = True
        self.dispatcher.close.remote()
        deadline = time.monotonic() + timeout_s
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        """Expect the lanes to be torn down with Ray; their errors are of no interest any more."""
        self._closing = True

    def _serve(self, lane: int) -> None:
        try:
            self._trainer(lane).fit()
        except BaseException as error:
            if not self._closing:
                self.failures.append(error)

    def _trainer(self, lane: int) -> Any:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.config import FailureConfig

        from ekd_train.worker import Post, work
        from orchestrator.process_group import AddressedTorchConfig

        cluster = self.cluster
        resources: dict[str, float] = {"CPU": cluster.cpus_per_worker}
        if cluster.gpus_per_worker:
            resources["GPU"] = cluster.gpus_per_worker
        path, filesystem = ray_storage(self.store)
        return TorchTrainer(
            work,
            train_loop_config={
                "post": Post(
                    desk=LaneDesk(self.dispatcher, lane),
                    store=self.store,
                    data=self.data,
                    cpus_per_worker=cluster.cpus_per_worker,
                    keep_checkpoints=self.keep_checkpoints,
                )
            },
            torch_config=AddressedTorchConfig(),
            scaling_config=ScalingConfig(
                num_workers=cast(Any, cluster.workers_per_run),  # Ray's annotation lacks (min, max)
                use_gpu=bool(cluster.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                # Ray keeps nothing of use here: checkpoints are ours, and a name is used once.
                name=f"ray/lane-{lane}-{time.time_ns()}",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(
                    max_failures=cluster.max_failures, controller_failure_limit=cluster.max_failures
                ),
            ),
        )


def divert_logging(log_file: Path) -> None:
    """Send the messages of Ray and other libraries to `log_file` instead of the terminal."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, logging.FileHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    for name in ("ray", "ray.train", "ray.tune", "mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)


@contextlib.contextmanager
def _quiet_stderr(log_file: Path) -> Any:
    """While Ray starts, what its processes write to stderr goes to `log_file`."""
    with log_file.open("ab") as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)

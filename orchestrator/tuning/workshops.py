"""Where trials train: in the trial's own process, or in a worker pool of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ekd_train.data.shared import SharedData
from ekd_train.settings import TrialStep
from orchestrator.errors import EkdError
from orchestrator.experiment.schema import build_experiment
from orchestrator.storage import Storage


class TrialFailed(EkdError, ValueError):
    """The trial cannot be trained, now or ever; the message says why."""


class Workshop(Protocol):
    """Where trials are trained, one after another."""

    def step(self, step: TrialStep) -> dict[str, float]:
        """See `ekd_train.workers.trial_runner.TrialBench.step`."""

    def save(self, step: TrialStep) -> None:
        """Store a checkpoint of the trial where it is now."""

    def clone(self, step: TrialStep, donor: TrialStep) -> None:
        """Go on with the networks that another trial had after the epoch `donor.after`."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class TrialPost:
    """Everything that a trial's process needs to begin."""

    store: Storage
    pool: dict[str, Any]
    """The experiment with the pool of teachers, as plain values."""
    seeds: int
    data: Any
    """A `ray.ObjectRef` of a `SharedData`: data set and teachers, once a node."""
    open_workshop: Callable[[TrialPost], Workshop]


def open_workshop(post: TrialPost) -> Workshop:
    """In this process for one worker, else in a worker pool."""
    several = build_experiment(post.pool).cluster.most_workers > 1
    return InWorkerPool(post) if several else InProcess(post)


class NodeNotice:
    """Ray's word that this node is about to be taken; `ekd_train.workers.workers.Notice`.

    In a worker pool Ray Train hears it; a trial's own process has to ask, which it does once an epoch.
    """

    def given(self) -> bool:
        """Whether this node is about to be taken; not if nobody answers."""
        import ray
        from ray._private.state import state

        if not ray.is_initialized():  # else asking would start Ray, or wait for one that has gone
            return False
        try:
            return ray.get_runtime_context().get_node_id() in state.get_draining_nodes()
        except Exception:
            return False

    def leave(self) -> None:
        """Train on, with a checkpoint after every epoch, until the node is gone: the trial may end before,
        and a process that ended by itself would count as a failure of the trial."""


class InProcess:
    """Trains in the calling process, on the device that Ray gave it."""

    def __init__(self, post: TrialPost) -> None:
        import ray
        import torch

        from ekd_train.data.tensors import place
        from ekd_train.workers.reporter import Silent
        from ekd_train.workers.trial_runner import TrialBench
        from ekd_train.workers.workers import Workers

        experiment = build_experiment(post.pool)
        torch.set_num_threads(experiment.cluster.cpus_per_worker)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        workers = Workers(device=device, notice=NodeNotice())
        shared: SharedData = ray.get(post.data)
        data = place(shared.dataset, workers.device)
        keep = experiment.storage.keep_checkpoints
        self.bench = TrialBench(data.training, data.description, post.store, workers, keep, shared.weights)
        self.silent = Silent

    def step(self, step: TrialStep) -> dict[str, float]:
        """See `Workshop`."""
        return self.bench.step(step, self.silent())

    def save(self, step: TrialStep) -> None:
        """See `Workshop`."""
        self.bench.save(step, self.silent())

    def clone(self, step: TrialStep, donor: TrialStep) -> None:
        """See `Workshop`."""
        self.bench.clone(step, donor, self.silent())

    def close(self) -> None:
        """See `Workshop`."""
        self.bench.close()


class InWorkerPool:
    """Trains in a worker pool of its own, started at the first step and kept for the next trial."""

    def __init__(self, post: TrialPost) -> None:
        self.post = post
        self.experiment = build_experiment(post.pool)
        self._group: Any = None

    def step(self, step: TrialStep) -> dict[str, float]:
        """See `Workshop`. Workers that are lost are started again by the group, as often as it may."""
        from orchestrator.runtime.ray_session import LaunchError

        group = self._open()
        group.add([step])
        reason = ""
        while True:
            try:
                events = group.news()
            except LaunchError as error:
                self.close()
                raise TrialFailed(reason or str(error)) from error
            for event in events:
                if event.run != step.name:
                    continue
                if event.kind == "done":
                    record: dict[str, Any] = event.data["record"]
                    if "failure" in record:
                        raise TrialFailed(record["failure"])
                    return record
                if event.kind == "failed":
                    reason = f"{event.data['error']}: {event.data['message']}"
                    if event.data["failure"] == "hopeless" and not event.data["out_of_memory"]:
                        group.abandon()
                        self.close()
                        raise TrialFailed(reason)

    def save(self, step: TrialStep) -> None:
        """Schedulers that pause trials are refused for trials of several workers."""
        raise NotImplementedError("a trial of several workers is never paused")

    def clone(self, step: TrialStep, donor: TrialStep) -> None:
        """As `save`."""
        raise NotImplementedError("a trial of several workers is never paused")

    def close(self) -> None:
        """End the workers: what they held is free."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _open(self) -> Any:
        if self._group is None:
            from orchestrator.runtime.ray_session import cluster_capacity
            from orchestrator.runtime.worker_pool import WorkerPool

            cluster, keep = self.experiment.cluster, self.experiment.storage.keep_checkpoints
            self._group = WorkerPool(cluster, self.post.store, self.post.data, keep)
            self._group.start(cluster_capacity("the cluster"), 1)
        return self._group

"""Where trials train: in the trial's own process, or in a worker pool of several."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import ray
import torch

from ekd_train.data.shared import SharedData
from ekd_train.data.tensors import place
from ekd_train.distributed import Workers
from ekd_train.own_code import allow
from ekd_train.persistence.networks import Networks
from ekd_train.settings import TrialStep
from ekd_train.workers.node_notice import NodeNotice
from ekd_train.workers.trial_runner import TrialRunner
from orchestrator.errors import EkdError
from orchestrator.experiment.schema import build_experiment
from orchestrator.runtime.event import Advanced, Done, Failed, Restarted, Warned
from orchestrator.runtime.ray_session import LaunchError, cluster_capacity
from orchestrator.runtime.worker_pool import WorkerPool
from orchestrator.storage import Storage
from orchestrator.tuning.trial_reporter import TrialReporter

AGAIN = "its workers are started again and continue from the last checkpoint"


class TrialFailed(EkdError, ValueError):
    """The trial cannot be trained, now or ever; the message says why."""


class TrialExecutor(Protocol):
    """Trains one trial after another."""

    def step(self, step: TrialStep) -> dict[str, float]:
        """The next record of a trial, as `ekd_train.workers.trial_runner.TrialRunner.step`."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class TrialSetup:
    """Everything that a trial's process needs to begin."""

    networks: Networks
    pool: dict[str, Any]
    """The experiment with the pool of teachers, as plain values."""
    seeds: int
    data: Any
    """A `ray.ObjectRef` of a `SharedData`: data set and teachers, once a node."""
    open_executor: "Callable[[TrialSetup], TrialExecutor]"
    reporter: TrialReporter = field(default_factory=TrialReporter)
    """Whom trials tell how far they are, and that they live."""
    where: str = "the cluster"
    """What the driver calls its Ray: nobody else takes of one of its own."""

    @property
    def storage(self) -> Storage:
        """Of the search."""
        return cast(Storage, self.networks.run)


def open_executor(setup: TrialSetup) -> TrialExecutor:
    """In this process for one worker, else in a worker pool."""
    several = build_experiment(setup.pool).cluster.most_workers > 1
    return InWorkerPool(setup) if several else InProcess(setup)


class InProcess:
    """Trains in the calling process, on the device that Ray gave it."""

    def __init__(self, setup: TrialSetup) -> None:
        experiment = build_experiment(setup.pool)
        allow(experiment.code)
        torch.set_num_threads(experiment.cluster.cpus_per_worker)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        # The trial trains on, with a checkpoint after every epoch, until the node is gone: it may end before,
        # and a process that ended by itself would count as a failure of the trial.
        notice = NodeNotice({ray.get_runtime_context().get_node_id()})
        workers = Workers(device=device, notice=notice)
        shared: SharedData = ray.get(setup.data)
        data = place(shared.here(), workers.device, experiment.cluster.cpus_per_worker)
        keep = experiment.storage.keep_checkpoints
        self.runner = TrialRunner(data.training, setup.networks, workers, keep, shared.weights)
        self.reporter = setup.reporter

    def step(self, step: TrialStep) -> dict[str, float]:
        """Train here until the next record."""
        return self.runner.step(step, self.reporter)

    def close(self) -> None:
        """Let the trial go, so that its memory is free."""
        self.runner.close()


class InWorkerPool:
    """Trains in a worker pool of its own, started at the first step and kept for the next trial."""

    def __init__(self, setup: TrialSetup) -> None:
        self.setup = setup
        self.experiment = build_experiment(setup.pool)
        self._group: Any = None

    def step(self, step: TrialStep) -> dict[str, float]:
        """Have the workers train until the next record; lost ones are started again as often as allowed.

        Raises `TrialFailed` when they cannot go on.
        """
        group = self._open()
        group.add([step])
        reason = ""
        tell = self.setup.reporter
        while True:
            try:
                events = group.poll_events()
            except LaunchError as error:
                self.close()
                raise TrialFailed(reason or str(error)) from error
            for event in events:
                if isinstance(event, Warned):  # of whatever run: of all workers, too
                    tell.warning(event.message)
                if event.run != step.name:
                    continue
                if isinstance(event, Advanced):
                    tell.progress(event.epoch, event.step, event.steps, event.loss, event.images_per_s)
                if isinstance(event, Restarted):
                    tell.warning(f"workers were lost or have come; {AGAIN}")
                if isinstance(event, Done):
                    record: Any = event.record
                    if "failure" in record:
                        raise TrialFailed(record["failure"])
                    return dict(record)
                if isinstance(event, Failed):
                    reason = event.reason
                    if event.failure == "hopeless" and not event.out_of_memory:
                        group.cancel()
                        self.close()
                        raise TrialFailed(reason)
                    tell.warning(f"{reason}; {AGAIN}")

    def close(self) -> None:
        """End the workers: what they held is free."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _open(self) -> Any:
        if self._group is None:
            cluster, keep = self.experiment.cluster, self.experiment.storage.keep_checkpoints
            code = self.experiment.code
            self._group = WorkerPool(cluster, self.setup.networks, self.setup.data, keep, code)
            self._group.start(cluster_capacity(self.setup.where), 1)
        return self._group

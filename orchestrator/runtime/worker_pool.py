"""The worker pool that does the training.

The only builder of a Ray Train trainer. One `fit` stays up for the whole `ekd run`; its workers
form worker groups that take one job after another from the job queue (docs/adr/0002).
"""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.train import RunConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ekd_train.persistence.networks import Networks
from ekd_train.workers.sign import Sign
from ekd_train.workers.worker import WorkerSetup, work
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.planning.capacity import Capacity, runs_at_once
from orchestrator.runtime.coming import Coming
from orchestrator.runtime.event import Done, Event, Failed, Warned
from orchestrator.runtime.job_queue import JobQueueClient, News, open_job_queue
from orchestrator.runtime.liveness import IN_VAIN, Silence, Watch, verdict
from orchestrator.runtime.ray_errors import remedy_in
from orchestrator.runtime.ray_session import LaunchError
from orchestrator.runtime.retry import cause_of
from orchestrator.storage import Storage
from orchestrator.storage.vendor_settings import RAY, ray_storage

ANSWER_S = 2.0
"""How long an answer of the queue or of a worker is waited for before other things are looked after."""

AGAIN = "all workers start again from the last checkpoint"


class _AllOfTheNode(Backend):
    share_cuda_visible_devices = True


@dataclass
class VisibleGpus(BackendConfig):
    """A worker sees the GPUs of all workers on its node, which NCCL needs to copy between them directly."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that Ray Train asks."""
        return _AllOfTheNode


def share(value: Any) -> Any:
    """`value` in Ray's object store: its arrays live once on every node that needs them."""
    return ray.put(value)


def groups_for(cluster: Cluster, capacity: Capacity, runs: int) -> int:
    """Worker groups that there is room for, at most `runs`; an elastic one takes all room."""
    return 1 if cluster.elastic else runs_at_once(cluster, capacity, runs)


class WorkerPool:
    """The workers of one `ekd run`, the job queue they work from, and the data they see."""

    def __init__(
        self,
        cluster: Cluster,
        networks: Networks,
        data: Any,
        keep_checkpoints: int,
        code: Mapping[str, str],
    ) -> None:
        """`data`: a `ray.ObjectRef` of a `SharedData`, one copy a node; `code`: see `WorkerSetup`."""
        self.cluster, self.networks = cluster, networks
        self.keep_checkpoints, self.code = keep_checkpoints, dict(code)
        self.job_queue = open_job_queue()
        self.data = data
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None
        self._closing = False
        self._watch = Watch(cluster.liveness)
        self._undone: list[Any] = []
        """Jobs that were queued and are not done, for a queue that has to be made again."""
        self._asked: Any = None
        """The question that the queue has not answered yet: what it answers must not get lost."""
        self._queue: News | None = None
        self._answered = 0.0
        self._coming = Coming(cluster)
        self._ended: set[tuple[int, int]] = set()
        """Rank and process of each worker that was ended here."""

    def start(self, capacity: Capacity, runs: int) -> int:
        """Start the workers of as many groups as there is room for, at most `runs`; the number of groups."""
        groups = groups_for(self.cluster, capacity, runs)
        fewest, most = self.cluster.fewest_workers, groups * self.cluster.most_workers
        if capacity.own and not self.cluster.elastic:
            fewest = most  # in a Ray of our own nothing is lost or gained, and Ray Train need not watch
        self._coming.begin(shared=not capacity.own)
        self.thread = threading.Thread(target=self._serve, args=(fewest, most), name="workers", daemon=True)
        self.thread.start()
        return groups

    def add(self, jobs: list[Any]) -> None:
        """Queue jobs, first come first served."""
        self._undone += jobs
        self.job_queue.add.remote(jobs)

    def poll_events(self, timeout_s: float = 0.5) -> list[Event]:
        """What happened since the last call; waits up to `timeout_s` for the first event.

        Raises `LaunchError` when the workers cannot go on.
        """
        events = self._poll(timeout_s)
        done = {event.run for event in events if isinstance(event, Done)}
        self._undone = [job for job in self._undone if job.name not in done]
        if self.failure is not None and not any(isinstance(event, Failed) for event in events):
            remedy = f"; {remedy}" if (remedy := remedy_in(str(self.failure))) else ""
            raise LaunchError(f"{cause_of(str(self.failure))}{remedy}") from self.failure
        if not events and self.thread is not None and not self.thread.is_alive():
            raise LaunchError("the workers ended before their work was done; see Ray's session logs")
        return events

    def _poll(self, timeout_s: float) -> list[Event]:
        if self._asked is None:
            self._asked = self.job_queue.news.remote(timeout_s)
        if not ray.wait([self._asked], timeout=timeout_s + ANSWER_S)[0]:
            return self._unanswered()
        asked, self._asked = self._asked, None
        try:
            news: News = ray.get(asked)
        except RayActorError:  # Ray starts it again
            time.sleep(timeout_s)
            return self._unanswered()
        self._answered = self._watch.tick()
        lost = self._queue is not None and self._queue.queue != news.queue
        self._queue = news
        events = list(news.events)
        if lost:
            self.job_queue.add.remote(self._undone)
            if self._closing:
                self.job_queue.close.remote()
            if self._undone:
                events.append(
                    Warned(
                        run="",
                        message="the job queue was lost: all workers start again from the last checkpoint",
                    )
                )
        if news.signs or not self._undone:
            self._coming.again()
        else:
            self._coming.look()
        return events + self._heed(self._watch.look(news.signs))

    def _unanswered(self) -> list[Event]:
        """The queue says nothing: end it if that lasts, so that Ray starts another one."""
        silent_s = self._watch.tick() - self._answered
        if self._queue is None:
            self._coming.look()
        if self._queue is None or verdict(silent_s, 0.0, self.cluster.liveness) != "lost":
            return []
        queue = f"the job queue (process {self._queue.pid} on {self._queue.host})"
        self._answered = self._watch.now + self.cluster.liveness.restart_after_s  # another has to start first
        if self._watch.in_vain(""):
            raise LaunchError(f"{queue} does not answer; it was started again {IN_VAIN} times in vain")
        kill(self.job_queue, again=True)
        return [
            Warned(run="", message=f"{queue} has not answered for {silent_s:.0f} s: it is ended, and {AGAIN}")
        ]

    def _heed(self, silences: list[Silence]) -> list[Event]:
        """Say them, or end their workers; what has ended is Ray Train's to start again."""
        events: list[Event] = []
        again: set[str] = set()
        for silence in silences:
            sign = silence.of
            if (sign.rank, sign.pid) in self._ended or has_ended(sign):
                continue
            if silence.lost:
                if sign.run not in again and self._watch.in_vain(sign.run):
                    raise LaunchError(f"{silence}; its workers were started again {IN_VAIN} times in vain")
                again.add(sign.run)
                self._ended.add((sign.rank, sign.pid))
                kill(sign.actor)
            ending = f": it is ended, and {AGAIN}" if silence.lost else ""
            events.append(Warned(run=sign.run, message=f"{silence}{ending}"))
        return events

    def close(self, timeout_s: float = 15.0) -> bool:
        """Let the workers end; True if all ended within `timeout_s`."""
        self._closing = True
        self.job_queue.close.remote()
        if self.thread is not None:
            self.thread.join(timeout_s)
        return self.thread is None or not self.thread.is_alive()

    def close_meanwhile(self) -> Future[bool]:
        """What `close` returns, when it is known."""
        ending = Future[bool]()

        def end() -> None:
            try:
                ending.set_result(self.close())
            except BaseException as error:
                ending.set_exception(error)

        threading.Thread(target=end, name="ending", daemon=True).start()
        return ending

    def cancel(self) -> None:
        """Drop all jobs, also for workers that are started again; what the workers raise is ignored now."""
        self._closing = True
        self.job_queue.cancel.remote()

    def _serve(self, fewest: int, most: int) -> None:
        try:
            self._trainer(fewest, most).fit()
        except BaseException as error:
            if not self._closing:
                self.failure = error

    def _trainer(self, fewest: int, most: int) -> Any:
        cluster = self.cluster
        resources: dict[str, float] = {"CPU": cluster.cpus_per_worker}
        if cluster.gpus_per_worker:
            resources["GPU"] = cluster.gpus_per_worker
        path, filesystem = ray_storage(cast(Storage, self.networks.run))
        setup = WorkerSetup(
            jobs=JobQueueClient(self.job_queue),
            networks=self.networks,
            data=self.data,
            workers_per_group=cluster.workers_per_run if isinstance(cluster.workers_per_run, int) else None,
            cpus_per_worker=cluster.cpus_per_worker,
            keep_checkpoints=self.keep_checkpoints,
            verify_every=cluster.verify_every,
            code=self.code,
        )
        return DataParallelTrainer(
            work,
            train_loop_config={"setup": share(setup)},
            backend_config=VisibleGpus(),
            scaling_config=ScalingConfig(
                # Between one group and all of them: a lost host costs its groups, not the run.
                num_workers=most if fewest == most else cast(Any, (fewest, most)),
                use_gpu=bool(cluster.gpus_per_worker),
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=cluster.resize_every_s,
            ),
            run_config=RunConfig(
                # Ray keeps nothing of use here: checkpoints are ours, and a name is used once.
                name=f"{RAY}/workers-{time.time_ns()}",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(
                    max_failures=cluster.max_failures, controller_failure_limit=cluster.max_failures
                ),
            ),
        )


def has_ended(sign: Sign) -> bool:
    """Whether the process that gave `sign` is gone; one that does not answer is not."""
    try:
        ray.get(sign.actor.__ray_ready__.remote(), timeout=ANSWER_S)
    except GetTimeoutError:
        return False
    except RayError:
        return True
    return False


def kill(actor: Any, *, again: bool = False) -> None:
    """End the process of an actor, also one that stands still (in 5 s); `again`: Ray is to start it again."""
    with suppress(RayError):
        ray.kill(actor, no_restart=not again)

"""Hands jobs to the worker groups of the worker pool and collects what they report.

One light Ray actor, without torch, on the driver's node: worker groups take jobs from it and report events,
which the driver polls. `JobQueue` is a plain class; only `JobQueueClient` and `open_job_queue` know Ray.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ekd_train.workers.assignment import Assignment
from ekd_train.workers.sign import Heart, Sign
from orchestrator.errors import EkdError
from orchestrator.experiment.redaction import one_line
from orchestrator.runtime.event import (
    Advanced,
    Done,
    Event,
    Failed,
    GroupEvent,
    Restarted,
    Started,
    Validated,
    Warned,
)
from orchestrator.runtime.retry import failure_kind, out_of_memory

ALONE_S = 30.0
"""How long a worker goes on while its queue cannot be reached."""

log = logging.getLogger(__name__)


class QueueLost(EkdError):
    """The queue that gave out the job has died; the one in its place knows nothing of it."""


@dataclass(frozen=True)
class News:
    """What the driver learns at a time."""

    queue: str
    """Of which queue: one that Ray had to start again has another id, and is empty."""
    pid: int
    host: str
    """The process of the queue."""
    events: list[Event]
    signs: list[Sign]
    """The latest of each worker."""


class JobQueue:
    """A queue of jobs, the job that each worker group is at, and a list of events.

    `next` is safe to repeat: every worker of a group calls it. When the worker pool is started again,
    perhaps with another number of groups, `begin` queues what was left unfinished.
    """

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.signs: dict[int, Sign] = {}
        self.waiting: deque[Assignment] = deque()
        self.current: dict[int, Assignment] = {}
        self.finished: set[int] = set()
        self.events: list[Event] = []
        self.closed = False
        self._explained: set[str] = set()
        """Runs of which a worker has reported why they failed, since the pool was started last."""
        self._serial = 0
        self._changed = asyncio.Condition()

    async def add(self, jobs: list[Any]) -> None:
        """Queue `jobs`, first come first served, but those that are queued or in progress."""
        current = [work.job for work in self.current.values() if work.serial not in self.finished]
        known = [*(work.job for work in self.waiting), *current]
        for job in [job for job in jobs if job not in known]:
            self.waiting.append(Assignment(self._serial, job))
            self._serial += 1
        await self._wake()

    async def close(self) -> None:
        """No more jobs will come; groups end when the queue is empty."""
        self.closed = True
        await self._wake()

    async def cancel(self) -> None:
        """Drop all jobs: every group stops, also after a restart."""
        self.waiting.clear()
        self.current.clear()
        await self.close()

    async def begin(self) -> None:
        """The worker pool has started: jobs that its groups had before are queued again."""
        self.signs.clear()
        left = {group: work for group, work in self.current.items() if work.serial not in self.finished}
        for group, work in left.items():
            # Ray Train may end the others before one of them notices and reports that a worker is lost.
            if work.job.name not in self._explained:
                self.events.append(Restarted(run=work.job.name, group=group))
        self._explained.clear()
        self.waiting.extendleft(sorted(left.values(), key=lambda work: -work.serial))
        self.current.clear()
        await self._wake()

    async def next(
        self, group: int, finished: int | None, timeout_s: float = 20.0, queue: str = ""
    ) -> Assignment | str:
        """The group's job; "wait" if there is none within `timeout_s`, "stop" if no more will come.

        `finished` is the serial of the assignment that the worker finished last. Raises `QueueLost` if the
        worker began with another queue.
        """
        if queue and queue != self.id:
            raise QueueLost("the job queue was lost: another one has taken its place")
        if finished is not None:
            self.finished.add(finished)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                while True:
                    work = self.current.get(group)
                    if work is not None and work.serial not in self.finished:
                        return work
                    if self.waiting:
                        self.current[group] = self.waiting.popleft()
                        return self.current[group]
                    if self.closed:
                        return "stop"
                    await self._changed.wait()
        return "wait"

    async def report(self, event: Event) -> None:
        """Keep `event`; of progress only the latest of each run is kept until it is drained."""
        if isinstance(event, Advanced):
            self.events = [e for e in self.events if not (isinstance(e, Advanced) and e.run == event.run)]
        if isinstance(event, Failed):
            self._explained.add(event.run)
        self.events.append(event)
        await self._wake()

    async def drain(self, timeout_s: float = 0.5) -> list[Event]:
        """The events since the last call; waits up to `timeout_s` for the first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.events)
        events, self.events = self.events, []
        return events

    async def sign(self, sign: Sign) -> str:
        """Keep a worker's sign of life; the id of this queue."""
        self.signs[sign.rank] = sign
        return self.id

    async def news(self, timeout_s: float = 0.5) -> News:
        """As `drain`, with all that a driver must know."""
        events = await self.drain(timeout_s)
        return News(self.id, os.getpid(), socket.gethostname(), events, list(self.signs.values()))

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class JobQueueClient:
    """A worker group's side of the queue: `ekd_train.workers.worker.JobSource` over an actor handle."""

    def __init__(self, actor: Any, group: int = 0, heart: Heart | None = None, queue: str = "") -> None:
        self.actor, self.group, self._heart, self._queue = actor, group, heart, queue
        self._run, self._reporting = "", False
        self._answered = 0.0

    def attend(self, rank: int) -> None:
        """Give signs of life from here on; without a queue to give them to, the process ends."""
        actor = ray.get_runtime_context().current_actor
        self._answered = time.monotonic()
        self._heart = Heart(Sign(rank, socket.gethostname(), os.getpid(), actor), self._give)
        self._queue = ray.get(self.actor.sign.remote(self._heart.sign))
        self._heart.start()

    def begin(self) -> None:
        """The whole pool has (re)started: jobs that its groups left unfinished are to be done again."""
        ray.get(self.actor.begin.remote())

    def of(self, group: int) -> "JobQueueClient":
        """The jobs of one worker group, once all have begun."""
        if self._heart is not None:
            self._heart.beat()  # `begin` has forgotten all signs: one that stops before its next is not known
        return JobQueueClient(self.actor, group, self._heart, self._queue)

    def next(self, finished: int | None) -> Any:
        """The group's assignment, waiting for one if need be; None: no more will come."""
        if self._heart is not None:
            self._heart.about("", first=True)
        while True:
            answer = ray.get(self.actor.next.remote(self.group, finished, queue=self._queue))
            if answer == "stop":
                return None
            if answer != "wait":
                return answer

    def about(self, run: str, reporting: bool) -> None:
        """What is reported from here on is about `run`; without `reporting` nothing is sent."""
        self._run, self._reporting = run, reporting
        if self._heart is not None:
            self._heart.about(run, first=reporting)

    def stepped(self, step: int | None) -> None:
        """For the signs of life."""
        if self._heart is not None:
            self._heart.at(step)

    def started(self, epoch: int, steps: int) -> None:
        """The run begins, or continues after `epoch` epochs and `steps` of the next one."""
        self._report(Started, epoch=epoch, steps=steps)

    def progress(self, epoch: int, step: int, steps: int, loss: float, images_per_s: float) -> None:
        """How far the run is; not waited for."""
        self._report(Advanced, epoch=epoch, step=step, steps=steps, loss=loss, images_per_s=images_per_s)

    def epoch(self, record: dict[str, float]) -> None:
        """One validated epoch."""
        self._report(Validated, record=record)

    def warning(self, message: str) -> None:
        """Something a person should see."""
        self._report(Warned, message=message)

    def done(self, serial: int, record: Any) -> None:
        """The job's record; waited for, so that it is known before the group takes the next job."""
        ray.get(self._report(Done, record=record))

    def failed(self, error: BaseException) -> None:
        """What was raised, and of which kind it is, reported by whichever worker raised it."""
        self._reporting = True
        kind = {"failure": failure_kind(error), "out_of_memory": out_of_memory(error)}
        with suppress(RayError):  # the queue may be what is lost
            ray.get(self._report(Failed, **kind, error=type(error).__name__, message=one_line(error)))

    def _report(self, event: type[GroupEvent], **data: Any) -> Any:
        if not self._reporting:
            return None
        return self.actor.report.remote(event(run=self._run, group=self.group, **data))

    def _give(self, sign: Sign) -> None:
        try:
            lost = ray.get(self.actor.sign.remote(sign)) != self._queue
        except RayError as error:
            lost = time.monotonic() - self._answered > ALONE_S
            log.warning("the job queue cannot be reached: %s", one_line(error))
        else:
            self._answered = time.monotonic()
        if lost:  # the driver has ended, or has made another queue, and other workers do the jobs
            log.error("the job queue is gone: this worker ends")
            os._exit(1)


def open_job_queue() -> Any:
    """A `JobQueue` as an actor on this node: it must live as long as the driver, and no longer.

    If its process dies Ray starts an empty one in its place.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(JobQueue)
    return actor.options(num_cpus=0, scheduling_strategy=here, max_concurrency=1000, max_restarts=-1).remote()

"""Hands training runs to the groups of the warm worker pool and collects what they report.

One light Ray actor, without torch, on the driver's side of everything: groups ask it for work, the
driver asks it for news. `JobQueue` is a plain class; only `JobQueueClient` and `open_job_queue` know Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from ekd_train.workers.assignment import Assignment
from orchestrator.runtime.retry import failure_kind, out_of_memory

EventKind = Literal["started", "progress", "epoch", "warning", "done", "failed", "restarted"]


@dataclass(frozen=True)
class Event:
    """Something that happened in a group: `run` is the job's name."""

    kind: EventKind
    group: int
    run: str
    data: dict[str, Any] = field(default_factory=dict)


class JobQueue:
    """A queue of jobs, the job that each group is at, and a list of events.

    `next` is safe to repeat: every worker of a group asks. When the group is started again,
    perhaps with another number of groups, `begin` queues what was left unfinished.
    """

    def __init__(self) -> None:
        self.waiting: deque[Assignment] = deque()
        self.current: dict[int, Assignment] = {}
        self.finished: set[int] = set()
        self.events: list[Event] = []
        self.closed = False
        self._explained: set[str] = set()
        """Runs of which a worker has told why they failed, since the group was started last."""
        self._serial = 0
        self._changed = asyncio.Condition()

    async def add(self, jobs: list[Any]) -> None:
        """Queue `jobs`, first come first served."""
        for job in jobs:
            self.waiting.append(Assignment(self._serial, job))
            self._serial += 1
        await self._wake()

    async def close(self) -> None:
        """No more jobs will come; groups end when the queue is empty."""
        self.closed = True
        await self._wake()

    async def abandon(self) -> None:
        """The run has failed: whoever asks for work is told to stop, also after a restart."""
        self.waiting.clear()
        self.current.clear()
        await self.close()

    async def begin(self) -> None:
        """The worker pool has started: nobody is at work on what its groups had before."""
        left = {group: work for group, work in self.current.items() if work.serial not in self.finished}
        for group, work in left.items():
            # Ray Train may end the others before one of them misses the one that was lost and says so.
            if work.job.name not in self._explained:
                self.events.append(Event("restarted", group, work.job.name))
        self._explained.clear()
        self.waiting.extendleft(sorted(left.values(), key=lambda work: -work.serial))
        self.current.clear()
        await self._wake()

    async def next(self, group: int, finished: int | None, timeout_s: float = 20.0) -> Assignment | str:
        """The group's job, or "wait" (ask again) or "stop"; see `ekd_train.workers.worker.JobSource.next`."""
        if finished is not None:
            self.finished.add(finished)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            work = self.current.get(group)
            if work is not None and work.serial not in self.finished:
                return work
            if self.waiting:
                self.current[group] = self.waiting.popleft()
                return self.current[group]
            if self.closed:
                return "stop"
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                return "wait"
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait(), remaining)
                except TimeoutError:
                    return "wait"

    async def tell(self, event: Event) -> None:
        """Note `event`; of progress only the latest of each run is kept until it is drained."""
        if event.kind == "progress":
            self.events = [e for e in self.events if not (e.kind == "progress" and e.run == event.run)]
        if event.kind == "failed":
            self._explained.add(event.run)
        self.events.append(event)
        await self._wake()

    async def drain(self, timeout_s: float = 0.5) -> list[Event]:
        """The events since the last call, waiting a little for the first."""
        if not self.events:
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait(), timeout_s)
                except TimeoutError:
                    return []
        events, self.events = self.events, []
        return events

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class JobQueueClient:
    """A group's side of the job_queue: `ekd_train.workers.worker.JobSource` over an actor handle."""

    def __init__(self, actor: Any, group: int = 0) -> None:
        self.actor, self.group = actor, group
        self._run, self._reporting = "", False

    def begin(self) -> None:
        """See `ekd_train.workers.worker.JobSource.begin`."""
        import ray

        ray.get(self.actor.begin.remote())

    def of(self, group: int) -> JobQueueClient:
        """See `ekd_train.workers.worker.JobSource.of`."""
        return JobQueueClient(self.actor, group)

    def next(self, finished: int | None) -> Any:
        """See `ekd_train.workers.worker.JobSource.next`."""
        import ray

        while True:
            answer = ray.get(self.actor.next.remote(self.group, finished))
            if answer == "stop":
                return None
            if answer != "wait":
                return answer

    def about(self, run: str, reporting: bool) -> None:
        """See `ekd_train.workers.worker.JobSource.about`."""
        self._run, self._reporting = run, reporting

    def started(self, epoch: int) -> None:
        """The run begins, or continues after `epoch` epochs."""
        self._tell("started", epoch=epoch)

    def progress(self, epoch: int, step: int, steps: int, loss: float, images_per_s: float) -> None:
        """How far the run is; not waited for."""
        self._tell("progress", epoch=epoch, step=step, steps=steps, loss=loss, images_per_s=images_per_s)

    def epoch(self, record: dict[str, float]) -> None:
        """One validated epoch."""
        self._tell("epoch", record=record)

    def warning(self, message: str) -> None:
        """Something a person should see."""
        self._tell("warning", message=message)

    def done(self, serial: int, record: dict[str, Any]) -> None:
        """The job's record; waited for, so that it is known before the group asks for more."""
        import ray

        ray.get(self._tell("done", record=record))

    def failed(self, error: BaseException) -> None:
        """Tell what was raised, and of which kind it is, from whichever worker raised it."""
        import ray

        self._reporting = True
        message = " ".join(str(error).split()) or type(error).__name__
        kind = {"failure": failure_kind(error), "out_of_memory": out_of_memory(error)}
        ray.get(self._tell("failed", **kind, error=type(error).__name__, message=message))

    def _tell(self, kind: EventKind, **data: Any) -> Any:
        return self.actor.tell.remote(Event(kind, self.group, self._run, data)) if self._reporting else None


def open_job_queue() -> Any:
    """The job_queue as an actor on this node: it must live as long as the driver, and no longer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(JobQueue)
    return actor.options(num_cpus=0, scheduling_strategy=here, max_concurrency=1000).remote()

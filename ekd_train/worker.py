"""A worker of the warm worker group: takes jobs from a desk until there are no more.

The only module of `ekd_train` that knows Ray Train. Starting a worker group (processes, imports,
process group) costs 10-20 s, so one group stays up for the whole `ekd run`. Its workers form
*lanes* of as many workers as a training run has; each lane does one job after another.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.v2._internal.execution.context import get_train_context

from ekd_train.checkpoint import Store
from ekd_train.jobs import execute, place, training_data
from ekd_train.loop import TrainingDiverged
from ekd_train.models.synchronised_batch_norm import synchronise_among
from ekd_train.reporter import Reporter
from ekd_train.settings import Job, TrialStep
from ekd_train.trials import TrialBench
from ekd_train.workers import Workers


@dataclass(frozen=True)
class Assignment:
    """One job for one lane; `serial` tells it from every other assignment."""

    serial: int
    job: Job


class Desk(Reporter, Protocol):
    """Where a lane gets its work, and says what became of it."""

    def begin(self) -> None:
        """The whole group has (re)started: jobs that its lanes left unfinished are to be done again.

        Called by one worker, before any other worker of any lane asks for work.
        """

    def of(self, lane: int) -> Desk:
        """The desk of one lane."""

    def next(self, finished: int | None) -> Assignment | None:
        """The lane's assignment, waiting for one if need be; None: no more will come.

        All workers of a lane get the same answers. `finished` is the serial of the last
        assignment that this worker finished, None if there is none.
        """

    def about(self, run: str, reporting: bool) -> None:
        """What is reported from here on is about `run`; `reporting` is false for all but one worker."""

    def done(self, serial: int, record: dict[str, Any]) -> None:
        """The assignment is finished and what it made is stored."""

    def failed(self, error: BaseException) -> None:
        """The assignment raised; the worker raises it too, after this."""


@dataclass(frozen=True)
class Post:
    """Everything that a worker of a group needs to begin."""

    desk: Desk
    store: Store
    data: Any
    """A `ray.ObjectRef` of (arrays, description)."""
    workers_per_lane: int | None
    """None: one lane of all workers, however many there are (elastic)."""
    cpus_per_worker: int
    keep_checkpoints: int


def form_lanes(rank: int, size: int, per_lane: int, device: torch.device) -> tuple[int | None, Workers]:
    """Divide `size` workers into lanes of `per_lane`; this one's lane, None if it is left over.

    Every worker must call it: process groups are made together.
    """
    lanes = size // per_lane
    if lanes == 1 and size == per_lane:
        return 0, Workers(rank, size, device=device)
    groups = [dist.new_group(list(range(i * per_lane, (i + 1) * per_lane))) for i in range(lanes)]
    lane = rank // per_lane
    if lane >= lanes:
        return None, Workers(device=device)
    group = cast(dist.ProcessGroup, groups[lane])
    synchronise_among(group)
    return lane, Workers(rank % per_lane, per_lane, group, device)


@dataclass(frozen=True)
class PreemptionNotice:
    """Ray's word that nodes of the worker group are about to be taken; `ekd_train.workers.Notice`.

    Ray's public question is a barrier of the whole group, whose lanes are never at the same point,
    so what each worker was told is read, and the lane agrees by itself.
    """

    rank: int
    """In the whole group, as Ray counts."""
    alone: bool
    """Whether the lane is the only one. Other lanes need the time until the deadline to checkpoint."""

    def given(self) -> bool:
        """Whether a node of the group is about to be taken."""
        return get_train_context().preemption_context.preemption_info is not None

    def leave(self) -> None:
        """Exit if it is this worker's node: Ray starts the group again on what is left."""
        info = get_train_context().preemption_context.preemption_info
        if self.alone and info is not None and self.rank in info.preempted_ranks:
            logging.getLogger(__name__).warning("this node is about to be taken: checkpointed, leaving")
            os._exit(1)  # an exception would count as a failure of the run, not as a preemption


def _step(trials: TrialBench, step: TrialStep, desk: Desk) -> dict[str, Any]:
    """A step of a trial; one that diverges fails alone, on all workers alike, and the group goes on."""
    try:
        return dict(trials.step(step, desk))
    except TrainingDiverged as error:
        trials.close()
        return {"failure": f"{type(error).__name__}: {error}"}


def _own_device() -> torch.device:
    """The GPU that Ray gave this worker, from here on this thread's; the CPU where it gave none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    from ray.train.torch import get_device  # late: it takes half a second to import

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def work(config: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`: do jobs until the desk has no more.

    `config["post"]` is a `ray.ObjectRef` of a `Post`: Ray Train's controller reads the configuration too, and
    would import torch for the `Post` itself.
    """
    post: Post = ray.get(config["post"])
    logging.getLogger("ekd_train").setLevel(logging.INFO)
    torch.set_num_threads(post.cpus_per_worker)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    lane, workers = form_lanes(rank, size, post.workers_per_lane or size, _own_device())
    if rank == 0:
        post.desk.begin()
    if size > 1:
        dist.barrier()
    workers = replace(workers, notice=PreemptionNotice(rank, alone=workers.size == size))
    if lane is None:
        return  # too few workers are left over for a lane of their own
    desk = post.desk.of(lane)
    arrays, description = ray.get(post.data)
    data = place(arrays, description, workers.device)
    trials = TrialBench(training_data(data), description, post.store, workers, post.keep_checkpoints, arrays)
    finished: int | None = None
    while (assignment := desk.next(finished)) is not None:
        desk.about(assignment.job.name, workers.is_first)
        try:
            if isinstance(assignment.job, TrialStep):
                record = _step(trials, assignment.job, desk)
            else:
                record = execute(assignment.job, data, post.store, desk, workers, post.keep_checkpoints)
        except BaseException as error:
            desk.failed(error)
            raise
        if workers.is_first:
            desk.done(assignment.serial, record)
        finished = assignment.serial

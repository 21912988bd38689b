"""A worker of a warm worker group: takes jobs from a desk until there are no more.

The only module of `ekd_train` that knows Ray Train. Starting a group (processes, imports, process
group) costs 10-20 s, so a group stays up for the whole `ekd run` and does one job after another.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch

from ekd_train.checkpoint import Store
from ekd_train.jobs import Job, execute, place
from ekd_train.reporter import Reporter
from ekd_train.workers import Workers


@dataclass(frozen=True)
class Assignment:
    """One job for one worker group; `serial` tells it from every other assignment."""

    serial: int
    job: Job


class Desk(Reporter, Protocol):
    """Where a worker group gets its work, and hears what became of it."""

    def next(self, finished: int | None) -> Assignment | None:
        """The group's assignment, waiting for one if need be; None: no more will come.

        All workers of a group get the same answers. `finished` is the serial of the last
        assignment that this worker finished; a group that was started again passes None and
        gets the one it left unfinished.
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
    cpus_per_worker: int
    keep_checkpoints: int


def work(config: dict[str, Post]) -> None:
    """Ray Train's `train_loop_per_worker`: do jobs until the desk has no more."""
    post = config["post"]
    logging.getLogger("ekd_train").setLevel(logging.INFO)
    torch.set_num_threads(post.cpus_per_worker)
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    arrays, description = ray.get(post.data)
    data = place(arrays, description, workers.device)
    finished: int | None = None
    while (assignment := post.desk.next(finished)) is not None:
        post.desk.about(assignment.job.name, workers.is_first)
        try:
            record = execute(assignment.job, data, post.store, post.desk, workers, post.keep_checkpoints)
        except BaseException as error:
            post.desk.failed(error)
            raise
        if workers.is_first:
            post.desk.done(assignment.serial, record)
        finished = assignment.serial

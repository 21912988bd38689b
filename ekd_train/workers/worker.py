"""A worker of the worker pool: does one job after another until no more will come.

The only module of `ekd_train` that knows Ray Train. Starting a worker pool (processes, imports, process
group) costs 10-20 s, so one pool stays up for the whole `ekd run`. Its workers form *worker groups* of as
many workers as a training run has; each worker group does one job after another.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import ray
import ray.train
import ray.train.collective
import torch
import torch.distributed as dist

from ekd_train.data.shared import SharedData
from ekd_train.data.tensors import place
from ekd_train.distributed import Workers
from ekd_train.models.synchronised_batch_norm import synchronise_among
from ekd_train.own_code import allow
from ekd_train.persistence.networks import Networks
from ekd_train.settings import TrialStep
from ekd_train.training.errors import TrainingDiverged
from ekd_train.training.reporter import Reporter
from ekd_train.training.speed import compute_exactly
from ekd_train.workers.assignment import Assignment
from ekd_train.workers.jobs import execute
from ekd_train.workers.node_notice import NodeNotice
from ekd_train.workers.process_group import join, rendezvous_url
from ekd_train.workers.trial_runner import TrialRunner


class JobSource(Reporter, Protocol):
    """Where a worker group gets its jobs from, and reports what became of them."""

    def attend(self, rank: int) -> None:
        """Give signs of life from here on as worker `rank` of the pool; `ekd_train.workers.sign`."""

    def begin(self) -> None:
        """The whole pool has (re)started: jobs that its worker groups left unfinished are to be done again.

        Called by one worker, before any other worker asks for a job.
        """

    def of(self, group: int) -> "JobSource":
        """The jobs of one worker group."""

    def next(self, finished: int | None) -> Assignment | None:
        """The worker group's assignment, waiting for one if need be; None: no more will come.

        All its workers get the same answers. `finished` is the serial of the last
        assignment that this worker finished, None if there is none.
        """

    def about(self, run: str, reporting: bool) -> None:
        """What is reported from here on is about `run`; `reporting` is false for all but one worker."""

    def done(self, serial: int, record: dict[str, Any]) -> None:
        """The assignment is finished and what it made is stored."""

    def failed(self, error: BaseException) -> None:
        """The assignment raised; the worker raises it too, after this."""


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a worker needs to begin."""

    jobs: JobSource
    networks: Networks
    data: Any
    """A `ray.ObjectRef` of an `ekd_train.data.shared.SharedData`."""
    workers_per_group: int | None
    """None: one worker group of all workers, however many there are (elastic)."""
    cpus_per_worker: int
    keep_checkpoints: int
    verify_every: int
    code: dict[str, str]
    """Modules of the user's own that jobs may name, and the hashes of their sources."""


def form_groups(rank: int, size: int, per_group: int, device: torch.device) -> tuple[int | None, Workers]:
    """Divide `size` workers into groups of `per_group`; the number of this one's, None if it is left over.

    Every worker must call it: process groups are made together.
    """
    count = size // per_group
    if count == 1 and size == per_group:
        return 0, Workers(rank, size, device=device)
    groups = [dist.new_group(list(range(i * per_group, (i + 1) * per_group))) for i in range(count)]
    number = rank // per_group
    if number >= count:
        return None, Workers(device=device)
    group = cast(dist.ProcessGroup, groups[number])
    synchronise_among(group)
    return number, Workers(rank % per_group, per_group, group, device)


def _step(trials: TrialRunner, step: TrialStep, jobs: JobSource) -> dict[str, Any]:
    """A step of a trial; one that diverges fails alone, on all workers alike, and the group goes on."""
    try:
        return dict(trials.step(step, jobs))
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
        compute_exactly()
    return device


def meeting_place(device: torch.device, per_group: int) -> torch.device:
    """Where a pool's workers meet that train on `device` in groups of `per_group`: on the host if alone.

    Workers that train alone may share a GPU, between which NCCL refuses to work.
    """
    return device if per_group > 1 else torch.device("cpu")


def form_process_group(rank: int, size: int, device: torch.device) -> list[str]:
    """Join all workers in one process group, if there are several; the id of each worker's node, by rank.

    It is formed here, not by a `ray.train.backend.Backend` such as Ray's `TorchConfig`: what fails in a
    backend fails in Ray Train's controller, which tries again for some exceptions only and leaves the CPUs
    of the workers that it had started occupied. What fails here is a worker's failure like any other.
    """
    node = ray.get_runtime_context().get_node_id()
    if size == 1:
        return [node]
    address = ray.util.get_node_ip_address()
    url = ray.train.collective.broadcast_from_rank_zero(rendezvous_url(address) if rank == 0 else None)
    join(url, address, rank, size, device)
    nodes = [""] * size
    dist.all_gather_object(nodes, node)
    return nodes


def work(config: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`: do jobs until there are no more.

    `config["setup"]` is a `ray.ObjectRef` of a `WorkerSetup`: Ray Train's controller reads the configuration
    too, and has no use for torch, which the `WorkerSetup` itself would import there.
    """
    setup: WorkerSetup = ray.get(config["setup"])
    allow(setup.code)
    logging.getLogger("ekd_train").setLevel(logging.INFO)
    torch.set_num_threads(setup.cpus_per_worker)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    setup.jobs.attend(rank)
    device = _own_device()
    per_group = setup.workers_per_group or size
    nodes = form_process_group(rank, size, meeting_place(device, per_group))
    group, workers = form_groups(rank, size, per_group, device)
    if rank == 0:
        setup.jobs.begin()
    if size > 1:
        dist.barrier()
    # Several groups need the time until the deadline to checkpoint: only one that is alone leaves before.
    own = nodes[rank] if workers.size == size else None
    workers = replace(workers, notice=NodeNotice(nodes, own), verify_every=setup.verify_every)
    if group is None:
        return  # too few workers are left over for a worker group of their own
    jobs = setup.jobs.of(group)
    shared: SharedData = ray.get(setup.data)
    data = place(shared.here(), workers.device, setup.cpus_per_worker)
    trials = TrialRunner(data.training, setup.networks, workers, setup.keep_checkpoints, shared.weights)
    finished: int | None = None
    while (assignment := jobs.next(finished)) is not None:
        jobs.about(assignment.job.name, workers.is_first)
        record: Any
        try:
            if isinstance(assignment.job, TrialStep):
                record = _step(trials, assignment.job, jobs)
            else:
                record = execute(assignment.job, data, setup.networks, jobs, workers, setup.keep_checkpoints)
        except BaseException as error:
            jobs.failed(error)
            raise
        if workers.is_first:
            jobs.done(assignment.serial, record)
        finished = assignment.serial

"""The data-parallel workers of one training run, as seen from one of them: on `torch.distributed` alone.

Whoever starts the processes (Ray Train, torchrun, a test) makes the process group first.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ekd_train.data.sampler import shard_bounds

T = TypeVar("T")


class Notice(Protocol):
    """Reports that machines are about to be preempted: spot instances, drained nodes."""

    def given(self) -> bool:
        """True once this worker knows that a machine of its run is about to be preempted."""

    def leave(self) -> None:
        """End this process if its machine is one of those; return if not."""


@dataclass(frozen=True)
class Workers:
    """This worker's place among the workers of a run, and what they do together."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """Their process group; None: all processes that there are."""
    device: torch.device = torch.device("cpu")
    notice: Notice | None = None
    """None: machines are not preempted. Either all workers of a run have one or none has."""
    verify_every: int = 0
    """Steps from one comparison of what they compute to the next; 0: never."""

    @property
    def is_first(self) -> bool:
        """Whether this worker reports, evaluates alone and writes checkpoints."""
        return self.rank == 0

    def seed_noise(self, seed: int) -> None:
        """Seed the global generators that this worker's networks draw from: dropout and the like.

        `torch.manual_seed` seeds every kind of device that there might be, 0.3 ms in every step.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def shard(self, total: int) -> tuple[int, int]:
        """This worker's rows `[start, stop)` of `total`: contiguous, sizes differing by at most one."""
        return shard_bounds(total, self.rank, self.size)

    def parallel(self, network: nn.Module) -> nn.Module:
        """`network` with gradients averaged over the workers; itself if there is one worker."""
        if self.size == 1:
            return network
        ids = [self.device] if self.device.type == "cuda" else None
        # Buffers are shared at the end of an epoch. Before every step too, workers would wait for each other
        # twice a step, for running statistics that only perturbations read.
        return DistributedDataParallel(
            network, device_ids=ids, process_group=self.group, forward_sync_buffers=False
        )

    def concatenate(self, rows: Tensor, total: int, dim: int = 0) -> Tensor:
        """All workers' shards of `total` rows, in rank order, on every worker."""
        if self.size == 1:
            return rows
        shares = [shard_bounds(total, rank, self.size) for rank in range(self.size)]
        longest = max(stop - start for start, stop in shares)
        padded = rows.new_zeros((longest, *rows.movedim(dim, 0).shape[1:]))
        padded[: rows.shape[dim]] = rows.movedim(dim, 0)
        gathered = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(gathered, padded, group=self.group)
        pieces = [piece[: stop - start] for piece, (start, stop) in zip(gathered, shares, strict=True)]
        return torch.cat(pieces).movedim(0, dim)

    def gather(self, value: T) -> list[T]:
        """Every worker's `value`, which can be pickled, in rank order, on every worker."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.group)
        return values

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over the workers."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value, group=self.group)
        return value

    def preemption_announced(self) -> bool:
        """True on all workers as soon as one knows that a machine is about to be preempted."""
        if self.notice is None:
            return False
        return bool(self.total(torch.tensor(float(self.notice.given()), device=self.device)))

    def exit_if_preempted(self) -> None:
        """End the processes on machines that are about to be preempted, once all workers are here."""
        if self.notice is not None:
            self.barrier()
            self.notice.leave()

    def share_buffers(self, network: nn.Module) -> None:
        """Give every worker the first one's buffers: running statistics that each made of its share."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, group=self.group, group_src=0)

    def barrier(self) -> None:
        """Wait for every worker."""
        if self.size > 1:
            dist.barrier(group=self.group)

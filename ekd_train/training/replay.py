"""Whether the workers of a run compute the same: gradients made once more by another worker."""

import hashlib
import socket
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ekd_train.distributed import Workers
from ekd_train.models.synchronised_batch_norm import apart
from ekd_train.training.batches import Batches
from ekd_train.training.errors import ComputationDiffers
from ekd_train.training.step import Step


class Replay:
    """Before one step in `workers.verify_every`, every worker makes the gradients of its own share of the
    images and those of the next worker's, and all compare hashes: of these, and of weights and momenta.

    A processor or memory that is faulty says nothing, and what it computes is in everybody's weights
    after one exchange of gradients (Hochschild et al., Cores that don't count, HotOS 2021). Training is
    not changed. With two workers it can be said that they differ, not which is wrong.
    """

    def __init__(self, step: Step, batches: Batches, workers: Workers) -> None:
        self._step, self._batches, self._workers = step, batches, workers
        self._agreed: int | None = None

    def __call__(self, number: int, rows: Tensor) -> None:
        """If it is time to, compare what workers make of the global batch `rows` of step `number`.

        `number` is counted from 0. Raises `ComputationDiffers`, on all workers.
        """
        every, rank, size = self._workers.verify_every, self._workers.rank, self._workers.size
        if every == 0 or size == 1 or (number + 1) % every:
            return
        buffers = list(self._step.trainee.buffers())
        kept = [buffer.clone() for buffer in buffers]
        # Running statistics are each worker's own within an epoch, and perturbations read them.
        self._workers.share_buffers(self._step.trainee)
        common = [buffer.clone() for buffer in buffers]
        state = _digest(self._state())
        gradients = []
        for batches in (self._batches, self._batches.of_worker((rank + 1) % size)):
            _put(buffers, common)
            with apart(self._step.trainee):
                self._step.add_gradients(*batches.parts(number, rows))
            gradients.append(_digest(p.grad for p in self._step.trainee.parameters()))
        _put(buffers, kept)
        found = self._workers.gather((socket.gethostname(), state, *gradients))
        hosts, states, own, others = zip(*found, strict=True)
        if faulty := suspects(states, own, others):
            named = " or ".join(f"worker {rank} on {hosts[rank]}" for rank in faulty)
            agreed = "they never agreed" if self._agreed is None else f"they agreed at step {self._agreed}"
            what, run = "weights" if len(set(states)) > 1 else "gradients", self._batches.run.name
            raise ComputationDiffers(
                f"{run}: before step {number + 1} workers' {what} differ: {named} computes wrongly, or is "
                f"another kind of processor than the others; {agreed}. Take that host out of the cluster; "
                "the same command continues from the last checkpoint, or, if checkpoints/"
                f"{run} is removed from the run's folder, from the beginning of this training run"
            )
        self._agreed = number + 1

    def _state(self) -> Iterable[Tensor]:
        yield from self._step.trainee.parameters()
        for values in self._step.optimiser.state.values():
            yield from (value for value in values.values() if isinstance(value, Tensor))


def suspects(states: Sequence[str], own: Sequence[str], others: Sequence[str]) -> list[int]:
    """The workers of which one, at least, computes wrongly; none where all agree. Arguments are by rank.

    Args:
        states: of weights and momenta; what most have is right.
        own: of the gradients of that worker's share.
        others: of the gradients of the next worker's.

    >>> suspects("aaa", own="xyz", others="yzx")
    []
    >>> suspects("aab", own="xyz", others="yzx")
    [2]
    >>> suspects("aaa", own="xYz", others="yzx")  # once only: who made it first, or who made it again
    [0, 1]
    >>> suspects("aaa", own="xYz", others="yZx")
    [1]
    """
    size = len(states)
    common, count = Counter(states).most_common(1)[0]
    if count < size:
        return [rank for rank in range(size) if states[rank] != common or count <= size / 2]
    wrong = [rank for rank in range(size) if own[rank] != others[rank - 1]]
    blamed = Counter(rank % size for share in wrong for rank in (share, share - 1))
    return sorted(rank for rank, times in blamed.items() if times == max(blamed.values()))


def _digest(tensors: Iterable[Tensor | None]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _put(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)

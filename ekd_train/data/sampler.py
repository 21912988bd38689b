"""Which images make up which batch: a pure function of seed, epoch and size.

There is no state to save: a resumed run gets the same order for the same epoch, and workers agree on
every global batch without communicating.
"""

import numpy as np

from .seeds import permutation


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which epoch `epoch` visits `size` images: a permutation, int64 `(size,)`."""
    return permutation(size, "epoch order", seed, epoch)


def global_batches(order: np.ndarray, batch_size: int) -> np.ndarray:
    """Cut an epoch's order into whole global batches: `(batches, batch_size)`.

    The incomplete batch at the end is dropped, as in the LatentBE recipe; its images come
    round in other epochs.

    Raises:
        ValueError: fewer images than one batch, so that an epoch would train on nothing.
    """
    if len(order) < batch_size:
        raise ValueError(
            f"a global batch of {batch_size} images is larger than the {len(order)} training images; "
            "lower the batch size or use more data"
        )
    count = len(order) // batch_size
    return order[: count * batch_size].reshape(count, batch_size)


def shard_bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Rows `[start, stop)` of a global batch of `size` images that worker `rank` takes.

    The workers' rows, in rank order, are the whole batch, and their counts differ by at most
    one. With more workers than rows some get none.

    >>> [shard_bounds(10, rank, 3) for rank in range(3)]
    [(0, 3), (3, 6), (6, 10)]
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} workers")
    return rank * size // world_size, (rank + 1) * size // world_size

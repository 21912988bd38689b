"""One worker of a plain process group; `python -m torch.distributed.run` starts them.

With `apart`, each trains a network of its own on its share of the batch and says nothing to the others:
as fast as the machine lets several processes be.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from benchmarks.timed_loop import advance_in_turns
from benchmarks.turns import GroupTurns
from benchmarks.workload import Workload
from ekd_train.reporter import Reporter, Silent
from ekd_train.workers import Workers


def train_in_turns(
    case: Workload, reporter: Reporter, turns: GroupTurns, device: torch.device, *, apart: bool = False
) -> None:
    """The same for every launcher: one thread, and the process group that it has made."""
    torch.set_num_threads(1)
    if apart:
        case = case.changed(batch_size=case.batch_size // dist.get_world_size())
        workers = Workers(device=device)
    else:
        workers = Workers(dist.get_rank(), dist.get_world_size(), device=device)
    advance_in_turns(case.loop(workers, reporter), turns)


if __name__ == "__main__":
    from benchmarks.between_workers import CASE

    dist.init_process_group()
    local = torch.device("cuda", dist.get_rank()) if torch.cuda.is_available() else torch.device("cpu")
    train_in_turns(CASE, Silent(), GroupTurns(), local, apart="apart" in sys.argv)
    dist.destroy_process_group()

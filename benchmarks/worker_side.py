"""One worker of a plain process group; `python -m torch.distributed.run` starts them.

Its arguments are a case of `between_workers` and a way to train: `one` and `together` are as a run is;
`apart`, each trains a network of its own on its share of the batch and says nothing to the others, as
fast as the machine lets several processes be; `in step`, they wait for each other after each step too.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from benchmarks.timed_loop import advance_in_turns
from benchmarks.turns import GroupTurns
from benchmarks.workload import Workload
from ekd_train.distributed import Workers
from ekd_train.training.reporter import Reporter, Silent


def train_in_turns(
    case: Workload, reporter: Reporter, turns: GroupTurns, device: torch.device, way: str = "together"
) -> None:
    """The same for every launcher: one thread, and the process group that it has made."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if way in ("apart", "in step"):
        case = case.changed(batch_size=case.batch_size // dist.get_world_size())
        workers = Workers(device=device)
    else:
        workers = Workers(dist.get_rank(), dist.get_world_size(), device=device)
    loop = case.loop(workers, reporter)
    if way == "in step":
        loop.step.optimiser.register_step_post_hook(lambda *_: dist.barrier())
    advance_in_turns(loop, turns)


if __name__ == "__main__":
    from benchmarks.between_workers import CASES

    dist.init_process_group()
    local = torch.device("cuda", dist.get_rank()) if torch.cuda.is_available() else torch.device("cpu")
    train_in_turns(CASES[sys.argv[1]], Silent(), GroupTurns(), local, sys.argv[2])
    dist.destroy_process_group()

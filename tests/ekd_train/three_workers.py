"""Training runs in three gloo processes that compare what they compute, one of which may be harmed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from training_runs import checkpoints_in, made_up_data, untrained_teachers
from two_workers import FolderStore

from ekd_train.distributed import Workers
from ekd_train.settings import TrainingRun
from ekd_train.training.errors import ComputationDiffers
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent
from ekd_train.training.step import Step

HARMED = 1


@dataclass(frozen=True)
class Case:
    run: TrainingRun
    verify_every: int
    harm: Literal["none", "a weight", "its gradients", "a gradient once"] = "none"
    """What becomes wrong in one bit in worker `HARMED`, from the fourth step on."""


def outcomes(cases: dict[str, Case], folder: Path) -> dict[str, list[object]]:
    """By worker the weights, or the text of the error."""
    mp.spawn(_worker, args=(cases, str(folder)), nprocs=3)
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(3)] for name in cases}


def _worker(rank: int, cases: dict[str, Case], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=3)
    update, add = Step._update, Step.add_gradients
    for name, case in cases.items():
        done = {"updates": 0, "replays": 0}

        def counted_update(step: Step, case: Case = case, done: dict[str, int] = done) -> None:
            update(step)
            done["updates"] += 1
            if (rank, done["updates"], case.harm) == (HARMED, 3, "a weight"):
                _flip(next(step.trainee.parameters()))

        def harmed_add(step: Step, *parts: object, case: Case = case, done: dict[str, int] = done) -> None:
            add(step, *parts)
            done["replays"] += done["updates"] >= 3
            once = case.harm == "a gradient once" and done["replays"] == 1
            if rank == HARMED and (once or (case.harm == "its gradients" and done["replays"])):
                _flip(next(p.grad for p in step.trainee.parameters() if p.grad is not None))

        Step._update, Step.add_gradients = counted_update, harmed_add
        run, data = case.run, made_up_data()
        try:
            found = train(
                run,
                data,
                checkpoints=checkpoints_in(FolderStore(Path(folder) / name), run),
                reporter=Silent(),
                workers=Workers(rank, 3, verify_every=case.verify_every),
                teachers=untrained_teachers(data) if run.teachers else None,
            ).network.state_dict()
        except ComputationDiffers as error:
            found = str(error)
        torch.save(found, f"{folder}/{name}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


def _flip(tensor: torch.Tensor) -> None:
    """The lowest bit of the first number."""
    tensor.detach().view(torch.int32).view(-1)[0] ^= 1

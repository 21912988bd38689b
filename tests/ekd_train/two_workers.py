"""Training runs in one process or in several gloo processes, with what each step saw written down."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from training_runs import checkpoints_in, made_up_data, untrained_teachers

from ekd_train.distributed import Workers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.settings import TrainingRun
from ekd_train.training import step as step_module
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent


class FolderStore:
    """A `Store` of files, which processes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str, most_bytes: int = 0) -> bytes:
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError as error:
            raise LookupError(key) from error

    def write(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def list(self, prefix: str = "") -> list[str]:
        files = (self.folder / prefix).rglob("*")
        return sorted(path.relative_to(self.folder).as_posix() for path in files if path.is_file())

    def delete(self, key: str) -> None:
        (self.folder / key).unlink(missing_ok=True)


def trained(run: TrainingRun, checkpoints: Checkpoints, workers: Workers) -> dict[str, object]:
    """The weights, the history, and the augmented and the perturbed images of every step."""
    seen: dict[str, list[Tensor]] = {"augment": [], "apply": []}
    originals = {name: getattr(step_module, name) for name in seen}

    def watched(name: str):
        def call(*args, **kwargs):
            images = originals[name](*args, **kwargs)
            seen[name].append(images.clone())
            return images

        return call

    data = made_up_data()
    for name in seen:
        setattr(step_module, name, watched(name))
    try:
        found = train(
            run,
            data,
            checkpoints=checkpoints,
            reporter=Silent(),
            workers=workers,
            teachers=untrained_teachers(data) if run.teachers else None,
        )
    finally:
        for name, original in originals.items():
            setattr(step_module, name, original)
    return {"weights": found.network.state_dict(), "history": found.history, **seen}


def in_one_process(run: TrainingRun, store) -> dict[str, object]:
    return trained(run, checkpoints_in(store, run, keep=100), Workers())


def in_processes(size: int, runs: dict[str, TrainingRun], folder: Path) -> dict[str, list[dict[str, object]]]:
    """What every worker of every run found; run `name` has its checkpoints in the folder `name`."""
    mp.spawn(_worker, args=(size, runs, str(folder)), nprocs=size)
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(size)] for name in runs}


def _worker(rank: int, size: int, runs: dict[str, TrainingRun], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    for name, run in runs.items():
        store = FolderStore(Path(folder) / name)
        found = trained(run, checkpoints_in(store, run, keep=100), Workers(rank, size))
        torch.save(found, f"{folder}/{name}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()

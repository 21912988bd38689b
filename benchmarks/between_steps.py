"""Target 5, on one worker: what an epoch spends beside its steps."""

from __future__ import annotations

import itertools
import tempfile

import torch

from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.turns import set_up_as_a_worker
from benchmarks.workload import Workload
from ekd_train.data.augment import augment
from ekd_train.evaluation.evaluate import validate
from ekd_train.training.speed import computing
from orchestrator.storage import open_storage

CIFAR_IMAGES = 45_000
CASE = Workload(architecture="WRN-10-1", image_size=32, images=CIFAR_IMAGES)
"""With as many images as CIFAR has, and a ninth of them for validation."""


def measure(case: Workload = CASE, rounds: int = 5) -> list[Result]:
    """Data path against step, and evaluation and checkpoint against an epoch of CIFAR's sizes.

    A checkpoint is written to a temporary folder; what its writer does counts, though training does not wait
    for it. Progress reports are part of what `benchmarks.between_workers` compares.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _measure(case, rounds, folder)


def _measure(case: Workload, rounds: int, folder: str) -> list[Result]:
    results = []
    for method in ("teacher", "latent_be"):
        changed = case.changed(method=method)
        loop = changed.loop(store=open_storage(f"{folder}/{method}"))
        batches = itertools.cycle(torch.randperm(case.images).split(case.batch_size)[:-1])

        def data_path(loop=loop, batches=batches) -> object:
            batch = loop.batches.draw(0, next(batches))
            return augment(batch.images, batch.augmentation)

        held_out, network = loop.data.validation, loop.step.trainee.network
        step = changed.step(loop)
        step()

        def evaluation(network=network, held_out=held_out, speed=changed.speed) -> None:
            with computing(speed, held_out.images.device):  # as the loop does
                validate(network, held_out.images, held_out.labels)

        loop.progress.best = {"epoch": 1.0}
        loop.best_weights = dict(network.state_dict())

        def save(loop=loop) -> None:
            loop.progress.best["epoch"] += 1  # as when every epoch is the best: its weights are stored too
            loop.save()
            loop.checkpoints.flush()

        seconds = compare(
            {
                "step": step,
                "data": data_path,
                "evaluation": evaluation,
                "checkpoint": save,
            },
            rounds=rounds,
        )
        name = changed.name
        results.append(Result(5, f"data path, {name}", seconds["step"] / seconds["data"], 10))
        beside = seconds["evaluation"] + seconds["checkpoint"]
        share = 100 * beside / (CIFAR_IMAGES // changed.batch_size * seconds["step"] + beside)
        results.append(Result(5, f"evaluation and checkpoint, {name}", share, 3, "smaller", "% of an epoch"))
    return results


if __name__ == "__main__":
    set_up_as_a_worker()
    torch.set_num_threads(1)
    print(table(measure()))
    print(conditions())

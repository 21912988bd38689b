"""Target 5, on one worker: what an epoch spends beside its steps."""

from __future__ import annotations

import torch

from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.workload import Workload
from ekd_train.data.augment import augment
from ekd_train.evaluate import validate

CASE = Workload(architecture="WRN-10-1", image_size=32)
CIFAR_STEPS, CIFAR_VALIDATION = 45_000 // 128, 5_000


def measure(case: Workload = CASE, rounds: int = 5) -> list[Result]:
    """Data path against step, and evaluation, checkpoint and logging against an epoch of CIFAR's sizes."""
    results = []
    for method in ("teacher", "latent_be"):
        changed = case.changed(method=method)
        loop = changed.loop()
        rows = torch.arange(case.batch_size)

        def data_path(loop=loop, rows=rows) -> object:
            batch = loop.batch(0, rows)
            return augment(batch.images, batch.augmentation)

        held_out, network = loop.data.validation, loop.step.trainee.network
        step = changed.step(loop)
        step()
        loop.progress.best = {"epoch": 1.0}
        loop.best_weights = dict(network.state_dict())

        def save(loop=loop) -> None:
            loop.progress.best["epoch"] += 1  # as when every epoch is the best: its weights are stored too
            loop.save()

        seconds = compare(
            {
                "step": step,
                "data": data_path,
                "evaluation": lambda n=network, v=held_out: validate(n, v.images, v.labels),
                "checkpoint": save,
            },
            rounds=rounds,
        )
        name = changed.name
        results.append(Result(5, f"data path, {name}", seconds["step"] / seconds["data"], 10))
        beside = seconds["evaluation"] * CIFAR_VALIDATION / len(held_out.labels) + seconds["checkpoint"]
        share = 100 * beside / (CIFAR_STEPS * seconds["step"] + beside)
        results.append(Result(5, f"evaluation and checkpoint, {name}", share, 3, "smaller", "% of an epoch"))
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(measure()))
    print(conditions())

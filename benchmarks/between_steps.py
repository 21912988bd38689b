"""Target 5, on one worker: what an epoch spends beside its steps."""

from __future__ import annotations

import torch

from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.turns import set_up_as_a_worker
from benchmarks.workload import Workload
from ekd_train.data.augment import augment
from ekd_train.evaluate import validate
from ekd_train.speed import computing

CIFAR_IMAGES = 45_000
CASE = Workload(architecture="WRN-10-1", image_size=32, images=CIFAR_IMAGES)
"""With as many images as CIFAR has, and a ninth of them for validation."""


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

        def evaluation(network=network, held_out=held_out, speed=changed.speed) -> None:
            with computing(speed, held_out.images.device):  # as the loop does
                validate(network, held_out.images, held_out.labels)

        loop.progress.best = {"epoch": 1.0}
        loop.best_weights = dict(network.state_dict())

        def save(loop=loop) -> None:
            loop.progress.best["epoch"] += 1  # as when every epoch is the best: its weights are stored too
            loop.save()

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

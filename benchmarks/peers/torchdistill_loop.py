"""torchdistill's side: its distillation box, driven as its image-classification example drives it.

Runs in the peers' environment. The example's data pipeline is torchvision's, sample by sample on PIL
images; what it does beside the step (a metric logger, a look at the loss) is kept. On its one core
the images are prepared in the training process: another process there would only add to the work.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from typing import Any

import torch
from torch.utils.data import RandomSampler
from torchdistill.core.distillation import get_distillation_box
from torchdistill.misc.log import MetricLogger
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from benchmarks.peers import case
from benchmarks.turns import NoMoreTurns, Turns

LOG_EVERY = 100


def main() -> None:
    core, root = sys.argv[1:]
    turns, device = case.take_turns(core)
    images = FashionMNIST(
        root,
        train=True,
        transform=transforms.Compose(
            [
                transforms.RandomCrop(case.IMAGE_SIZE, padding=case.CROP_PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        ),
    )
    torch.manual_seed(0)
    teacher = case.network().eval()
    settings = _settings()
    box = get_distillation_box(teacher, case.network(), {"train": images}, settings, device, None, False, 1)
    with contextlib.suppress(NoMoreTurns):
        for epoch in itertools.count():
            box.pre_epoch_process(epoch=epoch)
            _train_epoch(box, device, turns)
            box.post_epoch_process()


def _train_epoch(box: Any, device: torch.device, turns: Turns) -> None:
    metrics = MetricLogger(delimiter="  ")
    for images, labels, extra in metrics.log_every(box.train_data_loader, LOG_EVERY):
        turns()
        images, labels = images.to(device), labels.to(device)
        loss = box.forward_process(images, labels, extra)
        box.post_forward_process(loss=loss)
        metrics.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        if not torch.isfinite(loss):
            raise ValueError(f"the loss became {loss}")


def _settings() -> dict[str, Any]:
    output = {"path": ".", "io": "output"}
    kd_loss = {
        "temperature": case.TEMPERATURE,
        "alpha": 1 - case.TEACHER_WEIGHT,
        **{f"{who}_module_{key}": value for who in ("student", "teacher") for key, value in output.items()},
    }
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {
                "batch_size": case.BATCH_SIZE,
                "num_workers": 0,
                "pin_memory": torch.cuda.is_available(),
                "drop_last": True,
            },
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "SGD",
            "kwargs": {
                "lr": case.LEARNING_RATE,
                "momentum": case.MOMENTUM,
                "weight_decay": case.WEIGHT_DECAY,
                "nesterov": True,
            },
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd_loss}, "weight": 1}}},
        },
    }


if __name__ == "__main__":
    main()

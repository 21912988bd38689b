"""Averages of weights that need no subnetworks: is it the averaging alone that helps?"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from ekd_train.data.augment import as_float
from ekd_train.data.tensors import DeviceData
from ekd_train.distributed import Workers
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.settings import Schedule, TrainingRun
from ekd_train.training.loop import Loop
from ekd_train.training.reporter import Silent
from orchestrator.storage.local import LocalStorage

SWA_FROM = 0.75
"""Fraction of training after which weights are averaged (as Izmailov et al. 2018 do)."""
SWA_RATE = 0.3
"""Learning rate meanwhile, as a fraction of the peak: constant, so that the weights keep moving."""


def swa(run: TrainingRun, data: DeviceData, teachers: Teachers) -> nn.Module:
    """Stochastic weight averaging of a student trained as `run`, but for its schedule's last quarter.

    The weights of every validated epoch after `SWA_FROM` are averaged; batch statistics are
    measured anew. Nothing is kept on the way: if it is cut off, it begins again.
    """
    schedule = Schedule(
        kind="flat_linear",
        warmup_epochs=run.training.schedule.warmup_epochs,
        flat_until=0.5,
        decay_until=SWA_FROM,
        final_factor=SWA_RATE,
    )
    changed = run.model_copy(update={"training": run.training.model_copy(update={"schedule": schedule})})
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(LocalStorage(Path(folder)), "checkpoints", "swa", keep=1)
        workers = Workers(device=data.training.train.images.device)
        loop = Loop(changed, data.training, checkpoints, Silent(), workers, teachers)
        mean = AveragedModel(loop.step.trainee.network)
        with checkpoints.storing():  # written beside the training: the folder must not go before
            while not loop.finished:
                loop.advance()
                if loop.epoch > SWA_FROM * run.training.epochs:
                    mean.update_parameters(loop.step.trainee.network)
    return with_new_statistics(mean.module, data.training.train.images)


def uniform_average(networks: Sequence[nn.Module], images: Tensor) -> nn.Module:
    """The mean of independently trained networks' weights, with batch statistics of the result's own."""
    average = copy.deepcopy(networks[0])
    with torch.no_grad():
        for parameter, *others in zip(
            average.parameters(), *(network.parameters() for network in networks), strict=True
        ):
            parameter.copy_(torch.stack(list(others)).mean(0))
    return with_new_statistics(average, images)


def with_new_statistics(network: nn.Module, images: Tensor, batch: int = 500) -> nn.Module:
    """`network` with batch statistics measured on the training images `images`, as it stands."""
    update_bn((as_float(images[i : i + batch]) for i in range(0, len(images), batch)), network)
    return network.eval()

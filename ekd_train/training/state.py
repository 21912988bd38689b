"""What a run is at between epochs: how far it has come, which epoch was best, its weights and momenta."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.persistence.checkpoint import Checkpoint, DamagedCheckpoint
from ekd_train.settings import TrainingRun
from ekd_train.training.trainee import Trainee

TRAINEE, MOMENTUM = "trainee.", "momentum."
"""Prefixes of the names of tensors in a checkpoint."""


@dataclass
class Progress:
    """How far a run has come: all that is in a checkpoint beside the tensors."""

    epoch: int
    """Whole epochs done."""
    seconds: float
    """Spent on them, over all starts."""
    history: list[dict[str, float]]
    """The record of every validated epoch."""
    best: dict[str, float] | None
    """The best of them; None before the first."""


def state_tensors(trainee: Trainee, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, buffers and momenta by name; not copies."""
    state: Any = optimiser.state
    tensors = {f"{TRAINEE}{name}": value for name, value in trainee.state_dict().items()}
    for name, parameter in trainee.named_parameters():
        if (momentum := state.get(parameter, {}).get("momentum_buffer")) is not None:
            tensors[f"{MOMENTUM}{name}"] = momentum
    return tensors


def check_of_run(trainee: Trainee, found: Checkpoint) -> None:
    """Whether the tensors of `found` have the names and shapes that the settings gave `trainee`.

    Raises `DamagedCheckpoint`, and `TypeError` where its record is none of a `Progress`.
    """
    state = _shapes(TRAINEE, trainee.state_dict())
    momenta = _shapes(MOMENTUM, dict(trainee.named_parameters()))
    stored, best = _shapes("", found.tensors), _shapes("", found.best)
    whole = state.items() <= stored.items() <= (state | momenta).items()
    if not whole or best not in ({}, _shapes("", trainee.network.state_dict())):
        raise DamagedCheckpoint("its tensors are of other networks than this run's")
    if Progress(**found.record).epoch != found.epoch:
        raise DamagedCheckpoint(f"its progress is not that of epoch {found.epoch}")


def _shapes(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {f"{prefix}{name}": tensor.shape for name, tensor in tensors.items()}


def load_state_tensors(
    trainee: Trainee, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put what `state_tensors` returned back, in place. Raises `RuntimeError` for other networks' tensors."""
    trainee.load_state_dict(_below(TRAINEE, tensors))
    momenta = _below(MOMENTUM, tensors)
    for name, parameter in trainee.named_parameters():
        if name in momenta:
            momentum = torch.empty_like(parameter).copy_(momenta[name])  # the parameter's layout
            optimiser.state[parameter]["momentum_buffer"] = momentum


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def selected_by(run: TrainingRun) -> str:
    """Whose validation accuracy judges an epoch of `run`: "averaged" or "members"."""
    return run.student.select_by if run.student is not None and run.student.method != "kd" else "averaged"


def quality(record: Mapping[str, float], by: str) -> tuple[float, float]:
    """Validation accuracy of what `selected_by` names and minus its NLL: the greater tuple is the better."""
    return record[f"{by}/accuracy"], -record[f"{by}/nll"]


def all_finite(module: nn.Module) -> bool:
    """True if every floating-point parameter and buffer is finite everywhere."""
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in tensors]).all())

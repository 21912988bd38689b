"""What a run is at between steps: how far it has come, which epoch was best, its weights and momenta."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ekd_train.distributed import Workers
from ekd_train.persistence.checkpoint import Checkpoint, DamagedCheckpoint
from ekd_train.persistence.records import first_problem
from ekd_train.settings import TrainingRun
from ekd_train.training.step import Step

TRAINEE, AVERAGE, GROUPS, SCALER = "trainee.", "ema.", "groups.", "scaler."
COUNTER = f"{AVERAGE}n_averaged"
"""The same on all workers, and on the host, which workers on GPUs exchange nothing of."""
WORKERS, SUMS = "workers.", "sums."
"""Prefixes of the names of tensors in a checkpoint."""

OF_PARAMETERS = {
    "momentum.": "momentum_buffer",
    "exp_avg.": "exp_avg",
    "exp_avg_sq.": "exp_avg_sq",
    "step.": "step",
}
"""And of what an optimiser keeps of each parameter, by what it calls it."""


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


_PROGRESS = TypeAdapter(Progress)


def state_tensors(step: Step) -> dict[str, Tensor]:
    """Parameters, buffers, momenta and averages by name; not copies."""
    state: Any = step.optimiser.state
    tensors = _whole(step)
    for name, parameter in step.trainee.named_parameters():
        kept = state.get(parameter, {})
        tensors |= {f"{prefix}{name}": kept[key] for prefix, key in OF_PARAMETERS.items() if key in kept}
    for index, group in enumerate(step.optimiser.param_groups):
        if "step" in group:  # LAMB counts for a group
            tensors[f"{GROUPS}{index}"] = group["step"]
    return tensors


def _whole(step: Step) -> dict[str, Tensor]:
    """What every checkpoint of these settings has."""
    tensors = {f"{TRAINEE}{name}": value for name, value in step.trainee.state_dict().items()}
    if step.ema is not None:
        tensors |= {f"{AVERAGE}{name}": value for name, value in step.ema.state_dict().items()}
    if step.scaler.is_enabled():
        scale = step.scaler.state_dict()
        tensors |= {f"{SCALER}{name}": torch.tensor(scale[name]) for name in ("scale", "_growth_tracker")}
    return tensors


def own_tensors(step: Step, sums: Mapping[str, Tensor], workers: Workers) -> dict[str, Tensor]:
    """What differs from worker to worker within an epoch, of all of them: `(workers, ...)`, by name.

    Running statistics, and the sums of losses so far. All workers call it.
    """
    own = {f"{SUMS}{name}": value for name, value in sums.items()}
    if workers.size > 1:
        own |= {f"{WORKERS}{name}": buffer for name, buffer in _buffers(step).items()}
    return {name: workers.concatenate(value[None], workers.size) for name, value in own.items()}


def load_own_tensors(step: Step, tensors: Mapping[str, Tensor], workers: Workers) -> dict[str, Tensor]:
    """Put this worker's running statistics back, after `load_state_tensors`; its sums of losses.

    Of another number of workers: the first one's statistics, and the mean of their sums.
    """
    buffers = _buffers(step)
    for name, rows in _below(WORKERS, tensors).items():
        if name in buffers:  # earlier versions wrote `COUNTER`, too
            buffers[name].copy_(rows[workers.rank if len(rows) == workers.size else 0])
    return {
        name: (rows[workers.rank] if len(rows) == workers.size else rows.mean()).to(workers.device)
        for name, rows in sorted(
            _below(SUMS, tensors).items()
        )  # in one order on all workers, who add them up
    }


def _buffers(step: Step) -> dict[str, Tensor]:
    modules = {TRAINEE: step.trainee, AVERAGE: step.ema}
    parameters = {
        f"{p}{name}" for p, m in modules.items() if m is not None for name, _ in m.named_parameters()
    }
    return {
        name: value
        for name, value in _whole(step).items()
        if name not in parameters and name != COUNTER and not name.startswith(SCALER)
    }


def check_of_run(step: Step, steps_per_epoch: int, found: Checkpoint) -> None:
    """Whether the tensors of `found` have the names and shapes that the settings gave `step`.

    Raises `DamagedCheckpoint`.
    """
    state = _shapes("", _whole(step))
    parameters = dict(step.trainee.named_parameters())
    optional = {f"{GROUPS}{index}": torch.Size() for index in range(len(step.optimiser.param_groups))}
    for prefix, key in OF_PARAMETERS.items():
        optional |= {
            f"{prefix}{n}": torch.Size() if key == "step" else p.shape for n, p in parameters.items()
        }
    stored, best = _shapes("", found.tensors), _shapes("", found.best)
    if found.step:
        own = {name: stored.pop(name) for name in [*stored] if name.startswith((WORKERS, SUMS))}
        buffers = _shapes(WORKERS, _buffers(step))
        wrong = [
            name for name, shape in own.items() if not shape or shape[1:] != buffers.get(name, shape[1:1])
        ]
        if wrong or not any(name.startswith(SUMS) for name in own) or found.step >= steps_per_epoch:
            raise DamagedCheckpoint("what it has of the midst of an epoch is not this run's")
    whole = state.items() <= stored.items() <= (state | optional).items()
    if not whole or best not in ({}, _shapes("", step.trainee.network.state_dict())):
        raise DamagedCheckpoint("its tensors are of other networks than this run's")
    if progress_in(found).epoch != found.epoch:
        raise DamagedCheckpoint(f"its progress is not that of epoch {found.epoch}")


def progress_in(found: Checkpoint) -> Progress:
    """How far the run of a checkpoint had come; what else its record has is left out.

    Raises `DamagedCheckpoint` where that is no `Progress`.
    """
    try:
        return _PROGRESS.validate_python(found.record)
    except ValidationError as error:
        raise DamagedCheckpoint(f"its progress cannot be read ({first_problem(error)})") from None


def _shapes(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {f"{prefix}{name}": tensor.shape for name, tensor in tensors.items()}


def load_state_tensors(step: Step, tensors: Mapping[str, Tensor]) -> None:
    """Put what `state_tensors` returned back, in place. Raises `RuntimeError` for other networks' tensors."""
    step.trainee.load_state_dict(_below(TRAINEE, tensors))
    for name, parameter in step.trainee.named_parameters():
        for prefix, key in OF_PARAMETERS.items():
            if (stored := tensors.get(f"{prefix}{name}")) is None:
                continue
            like = torch.empty_like(parameter)  # the parameter's layout
            step.optimiser.state[parameter][key] = stored.clone() if key == "step" else like.copy_(stored)
    for index, group in enumerate(step.optimiser.param_groups):
        if (stored := tensors.get(f"{GROUPS}{index}")) is not None:
            group["step"] = stored.clone()
    if step.ema is not None:
        step.ema.load_state_dict(_below(AVERAGE, tensors))
    if step.scaler.is_enabled():
        scale = {name: value.item() for name, value in _below(SCALER, tensors).items()}
        step.scaler.load_state_dict(step.scaler.state_dict() | scale)


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

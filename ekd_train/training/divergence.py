"""Training that can no longer lead anywhere: a loss or weights that are not finite."""

import torch
from torch import nn

from ekd_train.errors import EkdError
from ekd_train.settings import TrainingRun


class TrainingDiverged(EkdError):
    """Loss or weights are not finite any more; the message says where, and what to go back to."""


def diverged(
    run: TrainingRun, what: str, *, step: int, epoch: int, learning_rate: float, checkpoint: str | None
) -> TrainingDiverged:
    """The error for `what` happened at `step` (from 0) of `epoch` (from 1).

    `learning_rate` is the one of that step; `checkpoint` the newest one's key, None if there is none.
    """
    return TrainingDiverged(
        f"{run.name}: {what} at step {step + 1} (epoch {epoch}), "
        f"learning rate {learning_rate:.4g}; last good checkpoint: {checkpoint or 'none yet'}. "
        "Lower the learning rate or lengthen the warm-up"
    )


def all_finite(module: nn.Module) -> bool:
    """True if every floating-point parameter and buffer is finite everywhere."""
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in tensors]).all())

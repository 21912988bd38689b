"""The straightforward formulation of a distillation step: the baseline of the benchmarks, and an oracle.

It says what the papers say, in the order in which they say it, and shares no code with the step that
is measured: every teacher and every member is evaluated with gradients in the perturbation, teachers
are a Python loop, BatchEnsemble layers scale activations, layout is contiguous, precision float32,
and nothing is compiled. Networks are those of this project. The results are equal to rounding; only
the work differs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ekd_train.models.batch_ensemble import BatchEnsemble
from ekd_train.models.batch_ensemble_layers import BatchEnsembleConv, BatchEnsembleLayer


class ScaledActivations(nn.Module):
    """`s_m * layer(r_m * x)`: a BatchEnsemble layer as its paper writes it, over all members' rows."""

    def __init__(self, layer: BatchEnsembleLayer) -> None:
        super().__init__()
        self.layer, self.r, self.s = layer.layer, layer.r, layer.s
        self.axes = (1, 1) if isinstance(layer, BatchEnsembleConv) else ()

    def forward(self, x: Tensor) -> Tensor:
        images = len(x) // len(self.r)
        r = self.r.repeat_interleave(images, dim=0)
        s = self.s.repeat_interleave(images, dim=0)
        y: Tensor = self.layer(x * r.view(*r.shape, *self.axes))
        return y * s.view(*s.shape, *self.axes)


class StraightforwardStudent(nn.Module):
    """All members of a BatchEnsemble, always, from a copy of its weights."""

    def __init__(self, student: BatchEnsemble) -> None:
        super().__init__()
        self.num_members = student.num_members
        self.shared = copy.deepcopy(student.shared)
        for name, layer in list(self.shared.named_modules()):
            if isinstance(layer, BatchEnsembleLayer):
                parent, _, attribute = name.rpartition(".")
                setattr(self.shared.get_submodule(parent), attribute, ScaledActivations(layer))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(s, b, c)`."""
        logits: Tensor = self.shared(images.repeat(self.num_members, 1, 1, 1))
        return logits.unflatten(0, (self.num_members, len(images)))


def train_student(
    student: StraightforwardStudent,
    teachers: Sequence[nn.Module],
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    *,
    pair: tuple[int, int],
    kind: str,
    strength: float,
    temperature: float,
    weight_decay: float,
) -> Tensor:
    """One LatentBE update (Nam et al. 2022) on float images in [0, 1].

    Returns the loss before it, less the teachers' entropy.
    """
    student.train()
    if kind in ("tdiv", "tdiv_sdiv"):
        images = perturb(student, teachers, images, pair, strength, with_student=kind == "tdiv_sdiv")
    with torch.no_grad():
        targets = torch.stack([F.softmax(teacher(images) / temperature, dim=-1) for teacher in teachers])
    log_probs = F.log_softmax(student(images) / temperature, dim=-1)
    loss = temperature**2 * -(targets * log_probs).sum(-1).mean()
    optimiser.zero_grad()
    loss.backward()
    for layer in student.modules():
        if isinstance(layer, ScaledActivations):
            for factor in (layer.r, layer.s):
                assert factor.grad is not None
                factor.grad = student.num_members * factor.grad + weight_decay * (factor.detach() - 1)
    optimiser.step()
    return loss.detach() - temperature**2 * torch.special.entr(targets).sum(-1).mean()


def perturb(
    student: StraightforwardStudent,
    teachers: Sequence[nn.Module],
    images: Tensor,
    pair: tuple[int, int],
    strength: float,
    *,
    with_student: bool,
) -> Tensor:
    """TDiv or TDiv-SDiv, every network evaluated and differentiated."""
    pixels = images.detach().clone().requires_grad_()
    goal = _disagreement(torch.stack([teacher(pixels) for teacher in teachers]), pair)
    if with_student:
        student.eval()
        goal = goal - _disagreement(student(pixels), pair)
        student.train()
    (gradient,) = torch.autograd.grad(goal, pixels)
    norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
    length = images[0].numel() ** 0.5 / 255
    return (images + strength * length * gradient / norms).clamp(0, 1)


def _disagreement(logits: Tensor, pair: tuple[int, int]) -> Tensor:
    log_probs = F.log_softmax(logits, dim=-1)
    i, j = pair
    return -(log_probs[j].exp().detach() * log_probs[i]).sum(-1).sum()


def train_on_labels(
    network: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> Tensor:
    """One update of a teacher; the loss, before it."""
    network.train()
    loss = F.cross_entropy(network(images), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()

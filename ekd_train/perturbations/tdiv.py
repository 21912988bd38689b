"""Diversifying perturbations: where teachers disagree (TDiv) and, better, the student does not yet (SDiv)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ekd_train.objectives.soft_targets import tempered_log_probs
from ekd_train.perturbations.ascent import evaluation_mode, one_grey_level, pixel_gradient
from ekd_train.perturbations.draw import Draw
from ekd_train.perturbations.perturbation import Networks

Logits = Callable[[Tensor], Tensor]


def tdiv(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """`√D/255 · g/‖g‖₂` with `g = ∇_x TDiv`: raise the disagreement of two teachers.

    `TDiv = -Σ_c sg(pT_j,c) log pT_i,c` at temperature 1, for one ordered pair (i, j) of teachers for
    the whole batch. The name is the paper's; dropping SDiv is what it says. Evaluates i and j only.
    """
    first, second = networks.teachers[draw.teachers[0]], networks.teachers[draw.teachers[1]]
    with evaluation_mode(first, second):
        return one_grey_level(pixel_gradient(images, lambda pixels: _divergence(pixels, first, second)))


def tdiv_sdiv(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """`√D/255 · g/‖g‖₂` with `g = ∇_x (TDiv - SDiv)` (Nam, Lee, Heo, Lee, ICML 2022, section 3.2).

    Raises the disagreement of teachers i and j where the student's members i and j still agree; SDiv is
    TDiv over the current, un-averaged members, in eval mode. One pair and temperature 1, as `tdiv`.
    Evaluates teachers i, j and members i, j only; gradient flows through i alone.
    """
    assert networks.student is not None
    student: nn.Module = networks.student
    i, j = draw.teachers
    teacher_i, teacher_j = networks.teachers[i], networks.teachers[j]

    def member(index: int) -> Logits:
        return lambda pixels: student(pixels, members=[index]).squeeze(0)

    def difference(pixels: Tensor) -> Tensor:
        return _divergence(pixels, teacher_i, teacher_j) - _divergence(pixels, member(i), member(j))

    with evaluation_mode(teacher_i, teacher_j, student):
        return one_grey_level(pixel_gradient(images, difference))


def _divergence(pixels: Tensor, moving: Logits, still: Logits) -> Tensor:
    """`-Σ_c sg(p_still,c) log p_moving,c` per image, `(b,)`."""
    with torch.no_grad():
        target = tempered_log_probs(still(pixels), temperature=1.0).exp()
    return -(target * tempered_log_probs(moving(pixels), temperature=1.0)).sum(dim=-1)

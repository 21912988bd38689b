"""Decoupled knowledge distillation: the label's class apart from all others."""

import torch
from torch import Tensor

from ekd_train.objectives.soft_targets import mean_over_images, paired


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target: float = 1.0,
    non_target: float = 8.0,
    weights: Tensor | None = None,
) -> Tensor:
    """`τ² (α KL(bT ‖ bS) + β KL(p̂T ‖ p̂S))`, a mean over members and images.

    With p the tempered probabilities, `b = (p_y, 1 - p_y)` and p̂ those of the other classes, normalised.
    `KL(pT ‖ pS) = KL(bT ‖ bS) + (1 - pT_y) KL(p̂T ‖ p̂S)`: a confident teacher leaves plain distillation little
    of its second part, here its weight is the same for every image. Zhao, Cui, Song, Qiu, Liang, *Decoupled
    Knowledge Distillation*, CVPR 2022, equation 7, as in the released code. Their linear warm-up of the term
    over 20 epochs is left out.

    Args:
        student_logits: `(s, b, c)`, c >= 2. Of one member it is compared with the teachers' mean
            probability, of several member m with teacher m.
        teacher_logits: `(k, b, c)`. They receive no gradient.
        labels: `(b,)` integers in [0, c).
        temperature: τ > 0; 4 in the paper.
        target: α; 1 in the paper.
        non_target: β; 1 to 10 in the paper, 8 for most pairs on CIFAR-100.
        weights: `(k, b)`, of each teacher for each image, their sum over the teachers 1; None: 1/k each.

    Returns:
        A scalar >= 0, zero when the probabilities are equal.

    Raises `ValueError`: shapes that do not fit, one class, or a temperature that is not positive.
    """
    if student_logits.shape[-1] < 2:
        raise ValueError("dkd compares the label's class with others: it needs at least two classes")
    targets, predictions, weights = paired(student_logits, teacher_logits, temperature, weights)
    index = labels.expand(targets.shape[:-1]).unsqueeze(-1)
    ours, theirs = _decoupled(predictions, index), _decoupled(targets, index)
    binary, others = ((t.exp() * (t - p)).sum(dim=-1) for t, p in zip(theirs, ours, strict=True))
    return temperature**2 * mean_over_images(target * binary + non_target * others, weights)


def _decoupled(log_probs: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """`log b (..., 2)` and `log p̂ (..., c - 1)`, without a difference of probabilities that are almost 1."""
    classes = torch.arange(log_probs.shape[-1] - 1, device=log_probs.device)
    # Not by a mask: a device waits until the host knows how many values it leaves.
    others = log_probs.gather(-1, classes + (classes >= index))
    rest = torch.logsumexp(others, dim=-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, index), rest], dim=-1), others - rest

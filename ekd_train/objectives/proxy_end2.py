"""Proxy-EnD²: one student predicts a Dirichlet that stands for the whole ensemble."""

import math

import torch
from torch import Tensor

from ekd_train.objectives.soft_targets import check_student_and_teachers


def proxy_end2(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Reverse KL from the student's Dirichlet to a proxy of the teachers', divided by its precision.

    Ryabinin, Malinin, Gales, *Scaling Ensemble Distribution Distillation to Many Classes with Proxy
    Targets*, NeurIPS 2021. The student is Dir(α) with `α = exp(z) + 1`, the target Dir(β) with
    `β = β₀ p̄ + 1`, `p̄` the teachers' mean probability and::

        1/β₀ = 2/(c - 1) · Σ_c p̄_c (log p̄_c - mean_k log p_k,c)

        L = KL(Dir(α) ‖ Dir(β)) / β₀                                  up to terms without α
          = Σ_c p̄_c (ψ(α₀) - ψ(α_c)) + 1/β₀ · KL(Dir(α) ‖ Dir(1))     mean over the batch

    Written with 1/β₀ the loss needs no guard: where all teachers agree, 1/β₀ is 0 and the first term,
    the expected cross-entropy with p̄, is left. Taking the added one away again, (α - 1) normalised is
    softmax(z): the student's logits are used as any classifier's.

    `temperature` plays no part, it is 1 on both sides: the paper needs none, unlike EnD² before it. Computed
    in float64, because ψ and log Γ of large α cancel.

    Args:
        student_logits: `(b, c)`, c >= 2.
        teacher_logits: `(k, b, c)`; their order does not matter. They receive no gradient.

    Returns:
        A float64 scalar > 0.

    Raises `ValueError`: shapes that do not fit, or fewer than two classes.
    """
    check_student_and_teachers(student_logits, teacher_logits, members=False)
    classes = student_logits.shape[-1]
    if classes < 2:
        raise ValueError("a Dirichlet needs at least two classes")

    log_probs = torch.log_softmax(teacher_logits.detach().double(), dim=-1)
    log_mean = torch.logsumexp(log_probs, dim=0) - math.log(len(log_probs))
    mean = log_mean.exp()
    spread = (mean * (log_mean - log_probs.mean(dim=0))).sum(dim=-1).clamp(min=0)
    inverse_precision = 2 * spread / (classes - 1)

    alpha = student_logits.double().exp() + 1
    total = alpha.sum(dim=-1)
    expected_log_probs = torch.digamma(alpha) - torch.digamma(total).unsqueeze(-1)
    expected_cross_entropy = -(mean * expected_log_probs).sum(dim=-1)
    kl_to_uniform = (
        torch.lgamma(total)
        - torch.lgamma(alpha).sum(dim=-1)
        - math.lgamma(classes)
        + ((alpha - 1) * expected_log_probs).sum(dim=-1)
    )
    return (expected_cross_entropy + inverse_precision * kl_to_uniform).mean()

"""Proxy-EnD²: one student predicts a Dirichlet that stands for the whole ensemble."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ekd_train.objectives.soft_targets import check_student_and_teachers

LOG_2PI = math.log(2 * math.pi)
EDGE = 10
BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""B₂, B₄, ... B₁₄."""


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
    in float64, without the cancellation of ψ and log Γ of large α.

    Args:
        student_logits: `(b, c)`, c >= 2.
        teacher_logits: `(k, b, c)`; their order does not matter. They receive no gradient.

    Returns:
        A float64 scalar > 0.

    Raises `ValueError`: shapes that do not fit, or fewer than two classes.

    >>> proxy_end2(torch.zeros(5, 10), torch.zeros(3, 5, 10)).shape
    torch.Size([])
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

    expected_cross_entropy, kl_to_uniform = _against(mean, student_logits.double())
    return (expected_cross_entropy + inverse_precision * kl_to_uniform).mean()


def proxy_end2_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`proxy_end2` less the entropy of p̄, as the other objectives are shown: >= 0, its gradient the same."""
    mean = torch.softmax(teacher_logits.detach().double(), dim=-1).mean(dim=0)
    entropy = torch.special.entr(mean).sum(dim=-1).mean()
    return proxy_end2(student_logits, teacher_logits, temperature=temperature) - entropy


def _against(mean: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """For each image `Σ_c p̄_c (ψ(α₀) - ψ(α_c))` and `KL(Dir(α) ‖ Dir(1))`, where `α = exp(logits) + 1`.

    ψ and log Γ of a confident student's α, e^36 say, agree in more digits than a float64 has. So their
    leading terms (Stirling) are added up here on paper, where all that is as large as α cancels, and only the
    remainders are computed: `log Γ(α) = (α - 1/2) log α - α + log(2π)/2 + r`, `ψ(α) = log α - 1/(2α) - q`.
    """
    classes = logits.shape[-1]
    log_alpha = F.softplus(logits)
    log_total = torch.logaddexp(torch.logsumexp(logits, dim=-1), logits.new_full((), math.log(classes)))
    half, half_of_total = torch.exp(-log_alpha) / 2, torch.exp(-log_total) / 2
    r, q, alpha_q = _remainders(log_alpha)
    r_total, q_total, total_q = _remainders(log_total)
    digamma = log_alpha - half - q
    digamma_of_total = log_total - half_of_total - q_total
    expected_cross_entropy = digamma_of_total - (mean * digamma).sum(dim=-1)
    per_class = -log_alpha / 2 - (1 + LOG_2PI) / 2 + half - alpha_q + q - r
    of_total = (
        (classes - 0.5) * log_total
        + (1 + LOG_2PI) / 2
        - classes * half_of_total
        + total_q
        - classes * q_total
        + r_total
    )
    return expected_cross_entropy, per_class.sum(dim=-1) + of_total - math.lgamma(classes)


def _remainders(log_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`r(x)`, `q(x)` and `x q(x)` of `x >= 1`: Stirling's series from 10 on, below it by the recurrences
    `log Γ(x) = log Γ(x + 10) - Σ log(x + n)` and `ψ(x) = ψ(x + 10) - Σ 1/(x + n)`, n from 0 to 9.

    (`torch.polygamma`, which `torch.digamma` would be differentiated by, has nine digits.)
    """
    x = log_x.clamp(max=math.log(EDGE)).exp()
    above, steps = x + EDGE, x.unsqueeze(-1) + torch.arange(EDGE, device=x.device)
    r_above, xq_above = _series(1 / above)
    log_gamma = (above - 0.5) * above.log() - above + r_above - steps.log().sum(-1)
    digamma = above.log() - (0.5 + xq_above) / above - (1 / steps).sum(-1)
    near_r = log_gamma - (x - 0.5) * x.log() + x
    near_q = x.log() - 1 / (2 * x) - digamma
    inverse = (-log_x.clamp(min=math.log(EDGE))).exp()
    far_r, far_xq = _series(inverse)
    near = log_x < math.log(EDGE)
    return (
        torch.where(near, near_r, far_r),
        torch.where(near, near_q, far_xq * inverse),
        torch.where(near, x * near_q, far_xq),
    )


def _series(inverse: Tensor) -> tuple[Tensor, Tensor]:
    """`r(x)` and `x q(x)` of `x >= 10`, given 1/x; the next terms are below 1e-15."""
    square = inverse.square()
    r, xq = torch.zeros_like(inverse), torch.zeros_like(inverse)
    for n in range(len(BERNOULLI), 0, -1):
        r = r * square + BERNOULLI[n - 1] / (2 * n * (2 * n - 1))
        xq = xq * square + BERNOULLI[n - 1] / (2 * n)
    return r * inverse, xq * inverse

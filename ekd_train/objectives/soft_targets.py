"""Cross-entropy and divergence against soft targets, at a temperature; and the checks on shapes.

`weights` are of each teacher for each image, `(k, b)`, their sum over the teachers 1; None: each 1/k.
"""

import math

import torch
from torch import Tensor

HOT = 100
"""Of logits divided by more, float32 keeps too few digits of what tells the classes apart: τ² times the
difference of two such log-probabilities would be rounding, for logits of ±3 at 1000 by up to 5 %."""


def tempered_log_probs(logits: Tensor, temperature: float) -> Tensor:
    """`log_softmax(logits / τ)` over the last axis, in float32 at least (bf16 has 3 digits); `HOT`: float64.

    Raises `ValueError`: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    least = torch.float64 if temperature > HOT else torch.float32
    precise = logits.to(torch.promote_types(logits.dtype, least))
    return torch.log_softmax(precise / temperature, dim=-1)


def mean_log_probs(log_probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """`log Σ_k w_k p_k`, `(b, c)`, of teachers' log-probabilities `(k, b, c)`."""
    if weights is None:
        return torch.logsumexp(log_probs, dim=0) - math.log(len(log_probs))
    return torch.logsumexp(log_probs + as_exact(weights, log_probs).log().unsqueeze(-1), dim=0)


def as_exact(weights: Tensor, values: Tensor) -> Tensor:
    """Weights `(k, b)` whose sum is 1 to the precision of `values`: what is missing, τ² would multiply."""
    if weights.dtype == values.dtype:
        return weights
    exact = weights.to(values.dtype)
    return exact / exact.sum(dim=0)


def mean_over_images(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of `losses (..., b)`; with weights of `(s, b)`, each s times its weight counts."""
    return losses.mean() if weights is None else (len(weights) * weights * losses).mean()


def cross_entropy(target_probs: Tensor, log_probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """`-Σ_c target_c · log_prob_c`, averaged over every leading axis: a scalar.

    No gradient reaches the target: a target is not something that learns.
    """
    return -mean_over_images((target_probs.detach() * log_probs).sum(dim=-1), weights)


def kl_divergence(target_log_probs: Tensor, log_probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """`KL(target ‖ prediction)`, averaged over every leading axis: a scalar, zero when they are equal.

    Its gradient is that of `cross_entropy`; it differs by the target's entropy.
    """
    target = target_log_probs.detach()
    return mean_over_images((target.exp() * (target - log_probs)).sum(dim=-1), weights)


def paired(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What each member learns and what it predicts, tempered log-probabilities `(s, b, c)`; and weights.

    A student of one member learns the teachers' mean probability, in which they have their weights; of
    several, member m learns from teacher m, and the weights, `(s, b)`, are those of its images.

    Raises `ValueError`: shapes that do not fit, or several members and another number of teachers.
    """
    targets = tempered_log_probs(teacher_logits.detach(), temperature)
    if len(student_logits) == 1:
        check_student_and_teachers(student_logits[0], teacher_logits, members=False)
        targets, weights = mean_log_probs(targets, weights).unsqueeze(0), None
    check_student_and_teachers(student_logits, targets, members=True)
    return targets, tempered_log_probs(student_logits, temperature), weights


def check_student_and_teachers(student_logits: Tensor, teacher_logits: Tensor, *, members: bool) -> None:
    """Refuse logits that cannot be compared: broadcasting would accept some of them silently.

    Args:
        student_logits: must be `(s, b, c)` if `members`, else `(b, c)`.
        teacher_logits: must be `(k, b, c)` with the student's b and c; with `members`, k = s.
        members: whether student members are paired with teachers.

    Raises `ValueError`: on any other shape.
    """
    student, teachers = tuple(student_logits.shape), tuple(teacher_logits.shape)
    if len(student) != (3 if members else 2):
        raise ValueError(f"student logits must be {'(s, b, c)' if members else '(b, c)'}, not {student}")
    if len(teachers) != 3 or teachers[0] == 0:
        raise ValueError(f"teacher logits must be (k, b, c) with k >= 1, not {teachers}")
    if teachers[1:] != student[-2:]:
        raise ValueError(f"student {student} and teachers {teachers} differ in batch or classes")
    if members and student[0] != teachers[0]:
        raise ValueError(
            f"member m learns from teacher m, so there must be as many members ({student[0]}) "
            f"as teachers ({teachers[0]}); set student.members to the number of teachers"
        )

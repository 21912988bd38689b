"""LatentBE's loss: student member m learns from teacher m."""

from torch import Tensor

from ekd_train.objectives.soft_targets import (
    check_student_and_teachers,
    cross_entropy,
    kl_divergence,
    tempered_log_probs,
)


def member_kd(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Member m learns the tempered probabilities of teacher m.

    `L_KD = τ² · 1/(s·b) Σ_m Σ_b CE(softmax(zT_m/τ), log_softmax(zS_m/τ))`
    (Nam, Lee, Heo, Lee, ICML 2022, as in the released code).

    Args:
        student_logits: `(s, b, c)`.
        teacher_logits: `(k, b, c)` with k = s. They receive no gradient.
        temperature: τ > 0.
        weights: `(k, b)`, of each teacher for each image, their sum over the teachers 1: an
            image counts k · weight in its member's loss. None: 1/k each.

    Returns:
        A scalar >= τ² times the teachers' mean entropy, a mean over members and batch. Because of the
        mean over members, a parameter that only one member has gets 1/s of that member's gradient;
        `ekd_train.training.optimiser.adjust_factor_gradients` undoes it.

    Raises `ValueError`: shapes that do not fit, s != k, or a temperature that is not positive.

    >>> import torch
    >>> member_kd(torch.zeros(2, 5, 10), torch.zeros(2, 5, 10), temperature=1)  # the entropy, log 10
    tensor(2.3026)
    """
    check_student_and_teachers(student_logits, teacher_logits, members=True)
    target_probs = tempered_log_probs(teacher_logits, temperature).exp()
    return temperature**2 * cross_entropy(
        target_probs, tempered_log_probs(student_logits, temperature), weights
    )


def member_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """`τ² · 1/(s·b) Σ_m Σ_b KL(softmax(zT_m/τ) ‖ softmax(zS_m/τ))`: `member_kd` less the teachers' entropy.

    The same gradient; a scalar >= 0, zero when every member equals its teacher. Arguments and errors as
    `member_kd`.
    """
    check_student_and_teachers(student_logits, teacher_logits, members=True)
    teachers = tempered_log_probs(teacher_logits, temperature)
    return temperature**2 * kl_divergence(teachers, tempered_log_probs(student_logits, temperature), weights)

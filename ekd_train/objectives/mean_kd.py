"""Knowledge distillation from the teachers' mean: the baseline of ensemble distillation."""

import torch
from torch import Tensor

from ekd_train.objectives.mixture import each_member
from ekd_train.objectives.soft_targets import (
    as_exact,
    check_student_and_teachers,
    cross_entropy,
    tempered_log_probs,
)


def mean_kd(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """One student learns the mean of the tempered teacher probabilities.

    `τ² · 1/(k·b) Σ_m Σ_b CE(softmax(zT_m/τ), log_softmax(zS/τ))`
    (Hinton et al. 2015; with several teachers as in the released code of Nam et al. 2022). CE is linear
    in its target, so this is τ² CE with the mean probability. The mean of *logits* is another target.

    Args:
        student_logits: `(b, c)`.
        teacher_logits: `(k, b, c)`, k >= 1; their order does not matter. They receive no gradient.
        temperature: τ > 0. The factor τ² keeps gradients of comparable size across τ.
        weights: `(k, b)`, of each teacher for each image, their sum over the teachers 1; None: 1/k each.

    Returns:
        A scalar >= τ² times the entropy of the target (cross-entropy, not KL), a mean over the batch.

    Raises `ValueError`: shapes that do not fit, or a temperature that is not positive.

    >>> mean_kd(torch.zeros(2, 4), torch.zeros(3, 2, 4), temperature=1.0).exp()
    tensor(4.)
    """
    check_student_and_teachers(student_logits, teacher_logits, members=False)
    target_probs = _mean_probs(teacher_logits, temperature, weights)
    return temperature**2 * cross_entropy(target_probs, tempered_log_probs(student_logits, temperature))


def mean_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """`mean_kd` less the target's τ² entropy, averaged over members `(s, b, c)`: τ² KL.

    The same gradient; zero for a student that has learned it all, whatever the temperature.
    """
    loss = each_member(mean_kd)(student_logits, teacher_logits, temperature=temperature, weights=weights)
    target_probs = _mean_probs(teacher_logits, temperature, weights)
    entropy = torch.special.entr(target_probs).sum(dim=-1).mean()
    return loss - temperature**2 * entropy.detach()


def _mean_probs(teacher_logits: Tensor, temperature: float, weights: Tensor | None) -> Tensor:
    probs = tempered_log_probs(teacher_logits, temperature).exp()
    return (
        probs.mean(dim=0) if weights is None else (as_exact(weights, probs).unsqueeze(-1) * probs).sum(dim=0)
    )

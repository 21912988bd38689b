"""Distillation by correlation: the part of DIST that is of one image alone."""

from torch import Tensor

from ekd_train.objectives.soft_targets import mean_over_images, paired

NORM_FLOOR = 1e-8
"""Added to the product of the norms, as DIST's authors do."""


def dist(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """`τ² (1 - Pearson_c(softmax(zS/τ), softmax(zT/τ)))`, a mean over members and images, in [0, 2 τ²].

    The inter-class term of Huang, You, Wang, Qian, Xu, *Knowledge Distillation from A Stronger Teacher*,
    NeurIPS 2022, equation 7, as in the released code. Their intra-class term correlates over the images of a
    batch, and so depends on how many workers share it: it is left out.

    Args:
        student_logits: `(s, b, c)`. Of one member it is compared with the teachers' mean probability, of
            several member m with teacher m.
        teacher_logits: `(k, b, c)`. They receive no gradient.
        temperature: τ > 0; 4 on CIFAR, 1 on ImageNet in the paper.
        weights: `(k, b)`, of each teacher for each image, their sum over the teachers 1; None: 1/k each.

    Raises `ValueError`: shapes that do not fit, or a temperature that is not positive.
    """
    targets, predictions, weights = paired(student_logits, teacher_logits, temperature, weights)
    ours, theirs = (_centred(log_probs.exp()) for log_probs in (predictions, targets))
    norms = ours.norm(dim=-1) * theirs.norm(dim=-1)
    correlation = (ours * theirs).sum(dim=-1) / (norms + NORM_FLOOR)
    return temperature**2 * mean_over_images(1 - correlation, weights)


def _centred(probs: Tensor) -> Tensor:
    return probs - probs.mean(dim=-1, keepdim=True)

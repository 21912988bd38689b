"""Ensemble Knowledge Distillation: N branches, N teachers, and the branches' fused prediction."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ekd_train.objectives.label import label_ce
from ekd_train.objectives.matching import AS_THEY_ARE, Matching
from ekd_train.objectives.objective import Objective, Predictions, present, weighted_sum
from ekd_train.objectives.soft_targets import (
    check_student_and_teachers,
    kl_divergence,
    mean_log_probs,
    tempered_log_probs,
)
from ekd_train.settings import EkdWeights


def ekd(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    temperature: float,
    weights: EkdWeights,
    student_features: Sequence[Tensor] | None = None,
    teacher_features: Sequence[Tensor] | None = None,
    matching: Matching = AS_THEY_ARE,
) -> dict[str, Tensor]:
    """Labels, teachers and, if weighted, features, for every branch and for the fused prediction.

    With `z̄` the mean of the branch logits and `T̄` the mean of the tempered teacher probabilities::

        L = a · [CE(z̄, y) + Σ_n CE(z_n, y)]
          + b · [Σ_n τ² KL(T_n ‖ z_n) + τ² KL(T̄ ‖ z̄)]
          + c · Σ_n MSE(student feature n, teacher feature n)

    With `weights.reduction` "mean" every bracket, a sum of N + 1 losses, is divided by N + 1.

    Asif, Tang, Harrer 2019 describe the method in words; weights, KL, the forms of z̄ and T̄ and the
    feature term are this project's choices, because the text leaves them open.

    Args:
        student_logits: `(s, b, c)`, one row per branch.
        teacher_logits: `(k, b, c)`, k = s; read only if b > 0. They receive no gradient.
        labels: `(b,)`, or `(b, c)` probabilities.
        temperature: τ > 0.
        weights: a (`label`), b (`distillation`), c (`feature`).
        student_features: s maps `(b, ch, h, w)`, projected; read only if c > 0.
        teacher_features: k maps of the same shapes; read only if c > 0.
        matching: what of the logits is matched, and how much each teacher counts.

    Returns:
        `loss`, and unweighted `label`, `distillation`, `feature` where their weights are not zero.

    Raises `ValueError`: shapes that do not fit, or missing teachers or features.

    >>> import torch
    >>> logits, labels = torch.zeros(2, 5, 10), torch.zeros(5, dtype=torch.int64)
    >>> sorted(ekd(logits, logits, labels, temperature=4, weights=EkdWeights()))
    ['distillation', 'label', 'loss']
    """

    branches = len(student_logits)
    losses = branches + 1 if weights.reduction == "mean" else 1

    def label() -> Tensor:
        fused = label_ce(student_logits.mean(dim=0), labels)
        return (fused + branches * label_ce(student_logits, labels)) / losses

    def distillation() -> Tensor:
        targets = present(teacher_logits, "teachers")
        check_student_and_teachers(student_logits, targets, members=True)
        counts = matching.weights(targets, labels)
        teachers, parts, fused = (
            tempered_log_probs(matching.seen(logits), temperature)
            for logits in (targets, student_logits, student_logits.mean(dim=0))
        )
        per_branch = branches * kl_divergence(teachers, parts, counts)
        together = kl_divergence(mean_log_probs(teachers, counts), fused)
        return temperature**2 * (per_branch + together) / losses

    def feature() -> Tensor:
        students = present(student_features, "student_features")
        targets = present(teacher_features, "teacher_features")
        return feature_mse(students, targets) / losses

    return weighted_sum(
        {
            "label": (weights.label, label),
            "distillation": (weights.distillation, distillation),
            "feature": (weights.feature, feature),
        }
    )


def feature_mse(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """`Σ_n mean((student feature n - teacher feature n)²)`; no gradient reaches the teachers.

    Raises `ValueError`: different numbers of maps, or a pair of different shapes.
    """
    if len(student_features) != len(teacher_features) or not student_features:
        raise ValueError(f"{len(student_features)} branch features for {len(teacher_features)} teachers")
    losses = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        if student.shape != teacher.shape:
            raise ValueError(
                f"branch features {tuple(student.shape)} and teacher features {tuple(teacher.shape)} differ; "
                "project them with FeatureProjections"
            )
        losses.append(F.mse_loss(student.float(), teacher.detach().float()))
    return torch.stack(losses).sum()


class Ekd(Objective):
    """`ekd` with fixed temperature, weights and matching."""

    def __init__(self, *, temperature: float, weights: EkdWeights, matching: Matching = AS_THEY_ARE) -> None:
        self.temperature = temperature
        self.weights = weights
        self.matching = matching
        self.needs_teachers = weights.distillation > 0 or weights.feature > 0
        self.needs_features = weights.feature > 0

    def __call__(self, predictions: Predictions) -> dict[str, Tensor]:
        """The terms of `ekd`."""
        return ekd(
            predictions.student,
            predictions.teachers,
            predictions.targets,
            temperature=self.temperature,
            weights=self.weights,
            student_features=predictions.student_features,
            teacher_features=predictions.teacher_features,
            matching=self.matching,
        )

"""`(1 - α) · label + α · distillation`: the form of every objective but EKD's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ekd_train.objectives.label import label_ce
from ekd_train.objectives.matching import AS_THEY_ARE, Matching
from ekd_train.objectives.objective import Objective, Predictions, present, weighted_sum


class Mixture(Objective):
    """`L = (1 - α) L_CE + α L_KD(x')`, means over members and batch.

    Args:
        distillation: L_KD, a scalar, of logits `(s, b, c)`, `(k, b, c)`, `temperature` and, where teachers
            do not count alike, `weights (k, b)`.
        alpha: weight of the distillation term, in [0, 1].
        temperature: τ > 0 of the distillation term; it does not touch the label term.
        matching: what of the logits is matched, and how much each teacher counts.
        reads_labels: `distillation` takes `labels (b,)` too, after the logits.
        clean_labels: the labels judge the clean images x, which the student is evaluated on too if α < 1;
            else the perturbed x', as the teachers do.
    """

    def __init__(
        self,
        distillation: Callable[..., Tensor],
        *,
        alpha: float,
        temperature: float,
        matching: Matching = AS_THEY_ARE,
        reads_labels: bool = False,
        clean_labels: bool = False,
    ) -> None:
        self.distillation, self.alpha, self.temperature = distillation, alpha, temperature
        self.matching, self.reads_labels = matching, reads_labels
        self.needs_teachers = alpha > 0
        self.needs_clean_student = clean_labels and alpha < 1

    def __call__(self, predictions: Predictions) -> dict[str, Tensor]:
        """`loss`, and `label` and `distillation` where their weights are not zero."""

        def label() -> Tensor:
            clean, logits = predictions.student_clean, predictions.student
            judged = present(clean, "student_clean") if self.needs_clean_student else logits
            return label_ce(judged, predictions.targets)

        def distillation() -> Tensor:
            teachers = present(predictions.teachers, "teachers")
            weights = self.matching.weights(teachers, predictions.targets)
            options = {} if weights is None else {"weights": weights}
            compared = [self.matching.seen(logits) for logits in (predictions.student, teachers)]
            labels = [predictions.labels] if self.reads_labels else []
            return self.distillation(*compared, *labels, temperature=self.temperature, **options)

        return weighted_sum({"label": (1.0 - self.alpha, label), "distillation": (self.alpha, distillation)})


def each_member(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`loss` of student logits `(b, c)`, averaged over the members of `(s, b, c)`."""

    def averaged(student_logits: Tensor, teacher_logits: Tensor, **options: Any) -> Tensor:
        losses = [loss(member, teacher_logits, **options) for member in student_logits]
        return torch.stack(losses).mean()

    return averaged

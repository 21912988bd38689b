"""`(1 - α) · label + α · distillation`: the form of every objective but the labels' own and EKD's."""

from abc import abstractmethod

from torch import Tensor

from ekd_train.objectives.label import label_ce
from ekd_train.objectives.objective import Objective, Predictions, present, weighted_sum


class Mixture(Objective):
    """`L = (1 - α) L_CE(x') + α L_KD(x')`; a subclass says what L_KD is.

    Args:
        alpha: weight of the distillation term, in [0, 1].
        temperature: τ > 0 of the distillation term; it does not touch the label term.
    """

    def __init__(self, *, alpha: float, temperature: float) -> None:
        self.alpha = alpha
        self.temperature = temperature
        self.needs_teachers = alpha > 0

    def __call__(self, predictions: Predictions) -> dict[str, Tensor]:
        """`loss`, and `label` and `distillation` where their weights are not zero."""
        return weighted_sum(
            {
                "label": (
                    1.0 - self.alpha,
                    lambda: label_ce(self.label_logits(predictions), predictions.labels),
                ),
                "distillation": (
                    self.alpha,
                    lambda: self.distillation(predictions.student, present(predictions.teachers, "teachers")),
                ),
            }
        )

    def label_logits(self, predictions: Predictions) -> Tensor:
        """The `(s, b, c)` logits that the labels judge."""
        return predictions.student

    @abstractmethod
    def distillation(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """L_KD, a scalar, from `(s, b, c)` and `(k, b, c)` logits."""

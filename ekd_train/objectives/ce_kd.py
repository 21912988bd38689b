"""The ODS paper's loss: labels on clean images, teachers on perturbed ones.

Where no image is perturbed, or α = 1, it is `MemberKd`'s.
"""

from torch import Tensor

from ekd_train.objectives.label import label_ce
from ekd_train.objectives.member_kd import member_kl
from ekd_train.objectives.mixture import Mixture
from ekd_train.objectives.objective import Predictions, present


def ce_kd(
    student_clean_logits: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
) -> Tensor:
    """Labels on the clean image x, teachers on the perturbed image x'.

    `L = (1 - α) CE(student(x), y) + α τ² KL(teacher m(x') ‖ member m(x'))`, means over members and batch
    (Nam, Yoon, Lee, Lee, NeurIPS 2021; there α = 0.9).

    Args:
        student_clean_logits: `(s, b, c)` on x.
        student_logits: `(s, b, c)` on x'.
        teacher_logits: `(k, b, c)` on x', k = s.
        labels: `(b,)`.
        alpha: weight of the distillation term, in [0, 1].
        temperature: τ > 0.

    Returns:
        A scalar >= 0.

    Raises `ValueError`: shapes that do not fit, s != k, or a temperature that is not positive.
    """
    label = label_ce(student_clean_logits, labels)
    return (1 - alpha) * label + alpha * member_kl(student_logits, teacher_logits, temperature=temperature)


class CeKd(Mixture):
    """`ce_kd`; the second evaluation of the student, on clean images, is asked for if α < 1."""

    def __init__(self, *, alpha: float, temperature: float) -> None:
        super().__init__(alpha=alpha, temperature=temperature)
        self.needs_clean_student = alpha < 1

    def label_logits(self, predictions: Predictions) -> Tensor:
        """The labels judge the clean images."""
        return present(predictions.student_clean, "student_clean")

    def distillation(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """`member_kl`."""
        return member_kl(student_logits, teacher_logits, temperature=self.temperature)

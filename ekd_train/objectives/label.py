"""Cross-entropy with the labels: teachers, the control, and the label term of every mixture."""

import torch
from torch import Tensor

from ekd_train.objectives.objective import Objective, Predictions
from ekd_train.objectives.soft_targets import cross_entropy, tempered_log_probs


def label_ce(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy with integer labels.

    `L_CE = 1/(s·b) Σ_m Σ_b -log softmax(z_m,b)[y_b]` (Nam et al. 2022, loss of the released code).

    Args:
        student_logits: `(b, c)`, or `(s, b, c)` where every member sees the same labels.
        labels: `(b,)` integers in [0, c), or `(b, c)` probabilities, of labels that are smoothed or mixed.

    Returns:
        A scalar >= 0.

    Raises `ValueError`: the shapes do not fit.

    >>> label_ce(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor(4.)
    """
    if student_logits.ndim not in (2, 3):
        raise ValueError(f"student logits must be (b, c) or (s, b, c), not {tuple(student_logits.shape)}")
    if tuple(labels.shape) not in (student_logits.shape[-2:-1], student_logits.shape[-2:]):
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit student logits {tuple(student_logits.shape)}"
        )
    log_probs = tempered_log_probs(student_logits, temperature=1.0)
    if labels.ndim == 2:
        return cross_entropy(labels, log_probs)
    index = labels.expand(log_probs.shape[:-1]).unsqueeze(-1)
    return -torch.gather(log_probs, -1, index).mean()


class LabelsOfEach(Objective):
    """`Σ_m CE(z_m, y)`: networks that share nothing learn as each would alone (PAPA)."""

    def __call__(self, predictions: Predictions) -> dict[str, Tensor]:
        """`loss`, and `label`, its mean over the networks."""
        label = label_ce(predictions.student, predictions.targets)
        return {"loss": len(predictions.student) * label, "label": label.detach()}

"""What of the logits students match, and how much each teacher counts for an image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ekd_train.objectives.soft_targets import tempered_log_probs

STD_FLOOR = 1e-7
"""Added to the standard deviation, as LSKD's authors do."""


@dataclass(frozen=True)
class Matching:
    """The options of every objective that matches teachers' logits; the default changes nothing."""

    standardise: bool = False
    """`standardised` logits in the place of teachers' and student's."""
    teacher_weights: Literal["equal", "confidence"] = "equal"
    """`confidence`: `confidence_weights`."""

    def seen(self, logits: Tensor) -> Tensor:
        """The logits, of teachers or student, that are compared."""
        return standardised(logits) if self.standardise else logits

    def weights(self, teacher_logits: Tensor, labels: Tensor) -> Tensor | None:
        """Of the teachers `(k, b, c)` for each image, `(k, b)`; None: they are equal."""
        return confidence_weights(teacher_logits, labels) if self.teacher_weights == "confidence" else None


AS_THEY_ARE = Matching()


def standardised(logits: Tensor) -> Tensor:
    """Z-scores over the classes, `(z - mean_c z) / (1e-7 + std_c z)`, std with c - 1; of `(..., c)`.

    Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024 (LSKD), equation 10: a student
    learns the relations of its teacher's logits, not their size. In float32 at least.

    Raises `ValueError`: fewer than two classes.

    >>> standardised(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.0000,  0.0000,  1.0000])
    """
    if logits.shape[-1] < 2:
        raise ValueError("standardised logits need at least two classes")
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    deviation = precise.std(dim=-1, keepdim=True)
    return (precise - precise.mean(dim=-1, keepdim=True)) / (STD_FLOOR + deviation)


def confidence_weights(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """How much each teacher counts for each image: less where it is wrong.

    `w_k = (1 - exp(CE_k) / Σ_j exp(CE_j)) / (k - 1)`, with CE_k the teacher's cross-entropy with the label at
    temperature 1 (Zhang, Chen, Wang, *Confidence-Aware Multi-teacher Knowledge Distillation*, ICASSP 2022,
    equation 2; their term of features is left out).

    Args:
        teacher_logits: `(k, b, c)`; they receive no gradient.
        labels: `(b,)` integers in [0, c), or `(b, c)` probabilities.

    Returns:
        `(k, b)`, their sum over the teachers 1; of one teacher 1.
    """
    teachers = len(teacher_logits)
    log_probs = tempered_log_probs(teacher_logits.detach(), 1.0)
    if labels.ndim == 2:
        costs = -(labels * log_probs).sum(dim=-1)
    else:
        costs = -log_probs.gather(-1, labels.expand(log_probs.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return (1 - costs.softmax(dim=0)) / (teachers - 1) if teachers > 1 else torch.ones_like(costs)

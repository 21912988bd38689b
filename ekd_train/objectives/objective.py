"""What an objective is given, what it answers, and how weighted terms make a loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Predictions:
    """Everything that one training step hands to its objective.

    A plain student is a student with one member: its logits are `(1, b, c)`.

    Attributes:
        labels: `(b,)` integer classes; where images are mixed, of the one that shows most.
        student: `(s, b, c)` logits of every member on the training images x' (perturbed, if they were).
        teachers: `(k, b, c)` logits of every teacher on x'; None where no term needs them.
        student_clean: `(s, b, c)` logits on the images before perturbation; None where no term needs them.
        student_features: one map per branch, projected to its teacher's channels (`FeatureProjections`).
        teacher_features: one map per teacher, of the same shapes.
        label_probs: `(b, c)`, where labels are smoothed or mixed; None where they are not.

    >>> import torch
    >>> Predictions(labels=torch.tensor([1]), student=torch.zeros(4, 1, 10)).targets
    tensor([1])
    """

    labels: Tensor
    student: Tensor
    teachers: Tensor | None = None
    student_clean: Tensor | None = None
    student_features: Sequence[Tensor] | None = None
    teacher_features: Sequence[Tensor] | None = None
    label_probs: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What a term on labels learns: `label_probs` if there are some, else `labels`."""
        return self.labels if self.label_probs is None else self.label_probs


class Objective(ABC):
    """A loss over `Predictions`. The three flags say which optional predictions it will read.

    `needs_features` implies `needs_teachers`: half of the features are theirs.

    Calling it gives `loss`, the scalar to differentiate, and its named terms before weighting,
    detached, for logging. A term of weight zero is neither computed nor present.

    Every term is a mean over the members, because factors of one member get its gradient times their number
    (`student.factors.gradient_scale`), and over the batch: the loss of a global batch of B images is the sum
    over workers of `b_w / B` times the loss of a worker's share of `b_w` images, even or not.

    >>> class FirstTeacher(Objective):
    ...     needs_teachers = True
    ...     def __init__(self, settings): ...  # those below `distillation`
    ...     def __call__(self, predictions):
    ...         first = present(predictions.teachers, "teachers")[0]
    ...         squared = (predictions.student - first).square().mean()
    ...         return weighted_sum({"squared": (1.0, lambda: squared)})
    >>> import torch
    >>> logits = torch.ones(1, 5, 10)
    >>> FirstTeacher(None)(Predictions(torch.zeros(5), logits, teachers=0 * logits))["loss"]
    tensor(1.)
    """

    needs_teachers: bool = False
    """Whether it reads `predictions.teachers`."""
    needs_clean_student: bool = False
    """Whether it reads `predictions.student_clean`."""
    needs_features: bool = False
    """Whether it reads both features, which only `student.method: ekd` has."""

    @abstractmethod
    def __call__(self, predictions: Predictions) -> dict[str, Tensor]:
        """The loss and its terms, each a scalar."""


def weighted_sum(terms: dict[str, tuple[float, Callable[[], Tensor]]]) -> dict[str, Tensor]:
    """`{"loss": Σ weight · term, name: term, ...}`, calling only terms of a weight above zero; one has it.

    >>> import torch
    >>> weighted_sum({"kd": (2.0, lambda: torch.tensor(3.0)), "labels": (0.0, lambda: torch.tensor(1.0))})
    {'loss': tensor(6.), 'kd': tensor(3.)}
    """
    values = {name: (weight, term()) for name, (weight, term) in terms.items() if weight != 0}
    loss = sum(weight * value for weight, value in values.values())
    assert isinstance(loss, Tensor)
    return {"loss": loss, **{name: value.detach() for name, (_, value) in values.items()}}


def present(value: T | None, name: str) -> T:
    """`value`, or a ValueError that names the prediction the training step left out.

    >>> present(3, "teachers")
    3
    """
    if value is None:
        raise ValueError(f"this objective reads predictions.{name}, which was not given")
    return value

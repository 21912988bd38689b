"""What a kind of perturbation is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ekd_train.perturbations.draw import Draw


class TeacherSequence(Protocol):
    """Networks from images to logits `(b, c)`: a list, an `nn.ModuleList` or `models.teachers.Teachers`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> nn.Module: ...


@dataclass(frozen=True)
class Networks:
    """What a perturbation may evaluate: k teachers, and the student where it is needed."""

    teachers: TeacherSequence
    student: nn.Module | None
    """With its members (`models.subnetworks.Subnetworks`)."""
    temperature: float
    """τ of the softmax of ODS and ConfODS."""


@dataclass(frozen=True)
class Perturbation:
    """One kind.

    >>> darker = Perturbation(lambda images, draw, networks: -images.new_full(images.shape, 1 / 255))
    >>> darker.drawn_teachers
    0
    """

    displacement: Callable[[Tensor, Draw, Networks], Tensor]
    """What is added to images `(b, ...)` at strength 1: a root-mean-square change of one grey level."""
    drawn_teachers: int = 0
    """How many different teachers a draw names, which is how many it evaluates."""
    needs_student: bool = False
    """Whether it evaluates the student's members of the same indices."""

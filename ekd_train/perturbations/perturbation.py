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
    """What a perturbation may evaluate.

    Attributes:
        teachers: k networks.
        student: the student, with its members (`models.subnetworks.Subnetworks`); None if not needed.
        temperature: τ of the softmax of ODS and ConfODS.
    """

    teachers: TeacherSequence
    student: nn.Module | None
    temperature: float


@dataclass(frozen=True)
class Perturbation:
    """One kind.

    Attributes:
        displacement: from images `(b, ...)`, their draw and the networks to what is added to the
            images at strength 1, of the images' shape: a root-mean-square change of one grey level.
        drawn_teachers: how many different teachers a draw names, which is how many it evaluates.
        needs_student: whether it evaluates the student's members of the same indices.
    """

    displacement: Callable[[Tensor, Draw, Networks], Tensor]
    drawn_teachers: int = 0
    needs_student: bool = False

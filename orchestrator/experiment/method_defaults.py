"""Defaults that depend on the method: where a user wrote nothing, what that method needs.

They are written into an experiment once, when its user's file is read. So the experiment's identity says
that they hold, and a run that an earlier version began goes on as it was: every key of it is stored.
"""

from ekd_train.settings import Distillation, Student

CLIP_NORM = "student.training.clip_norm"
DECIDE_CLIPPING = ("student.method", "distillation.objective", "distillation.ekd.reduction")
"""Keys by which its default comes or goes, for the student and for the control, which is trained alike."""

EKD_CLIP_NORM = 3.0
"""Without it 8 of 20 students were lost in one regime, with it none (docs/methods.md)."""


def sums_losses(student: Student, distillation: Distillation) -> bool:
    """Whether SGD follows the gradient of a sum of N + 1 losses, at first too long a step."""
    objective = distillation.objective
    is_ekd = objective == "ekd" or (objective == "auto" and student.method == "ekd")
    return is_ekd and distillation.ekd.reduction == "sum" and student.training.optimiser.name == "sgd"


def with_defaults_of_its_method(student: Student, distillation: Distillation) -> Student:
    """The student with what its method needs where nothing was written; a written null stays.

    >>> with_defaults_of_its_method(Student(method="ekd"), Distillation()).training.clip_norm
    3.0
    """
    written = "clip_norm" in student.training.model_fields_set
    if written or not sums_losses(student, distillation):
        return student
    training = student.training.model_copy(update={"clip_norm": EKD_CLIP_NORM})
    return student.model_copy(update={"training": training})


def with_defaults_of_another_method(
    student: Student, distillation: Distillation, before: tuple[Student, Distillation]
) -> Student:
    """The student of a trial, whose method or loss is perhaps another than the experiment's was `before`.

    Where a sum begins, its default begins; where one ends, the default ends.
    """
    now, then = sums_losses(student, distillation), sums_losses(*before)
    clip_norm = student.training.clip_norm
    if now and not then and clip_norm is None:
        clip_norm = EKD_CLIP_NORM
    elif then and not now and clip_norm == EKD_CLIP_NORM:
        clip_norm = None
    training = student.training.model_copy(update={"clip_norm": clip_norm})
    return student.model_copy(update={"training": training})

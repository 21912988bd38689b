"""Further networks that a run compares its averaged student with, where they are asked for."""

from typing import Any, Literal

from pydantic import field_validator

from ekd_train.own_code import is_own, module_of
from ekd_train.settings import Distillation, PerturbationSettings, Settings, Student, TrainingRun


class EvaluationSettings(Settings):
    """What is measured at the end beside teachers, control and student."""

    controls: tuple[Literal["best_teacher", "papa"], ...] = ()
    """Further networks as the student's average: `best_teacher`: plain distillation from the teacher that is
    best on validation images; `papa`: the average of `student.members` networks without teachers."""

    @field_validator("controls")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name each control once")
        return value


def check_papa(student: Student, evaluation: EvaluationSettings) -> None:
    """Raises `ValueError` where PAPA's networks would start alike, and so stay: they see the same images."""
    start = student.architecture
    if (student.method == "papa" or "papa" in evaluation.controls) and (start.weights or start.pruned):
        raise ValueError(
            "papa's networks part because they start apart: student.architecture can neither have weights "
            "to start from nor be pruned; leave papa out of student.method and evaluation.controls"
        )


def further_controls(student: TrainingRun, evaluation: EvaluationSettings) -> tuple[TrainingRun, ...]:
    """Training runs of what `evaluation` asks for: like `student`, but plain or PAPA's, on clean images."""
    of, distillation = student.student, student.distillation
    assert of is not None
    assert distillation is not None
    architecture = student.architecture.name
    own = module_of(architecture) if is_own(architecture) else None
    plain: dict[str, Any] = {
        "perturbation": PerturbationSettings(),
        "code": {module: sha256 for module, sha256 in student.code.items() if module == own},
    }
    auto = distillation.model_copy(update={"objective": "auto", "assignment": "fixed"})
    kinds: dict[str, dict[str, Any]] = {
        "best_teacher": {"method": "kd", "distillation": auto, "best_teacher_only": True},
        "papa": {"method": "papa", "distillation": Distillation(), "teachers": ()},
    }

    def control(kind: str) -> TrainingRun:
        changes = {"name": f"control-{kind}", **plain, **kinds[kind]}
        method = {"method": changes.pop("method"), "select_by": "averaged"}
        return student.model_copy(update=changes | {"student": of.model_copy(update=method)})

    return tuple(control(kind) for kind in evaluation.controls)

"""An objective of one's own, called once on made-up predictions before anything is trained for it."""

import torch
from torch import Tensor

from ekd_train.objectives.objective import Objective, Predictions

IMAGES = 4


def try_objective(objective: Objective, *, members: int, teachers: int, classes: int) -> None:
    """Call it on logits of so many members, teachers and classes, and take the gradient.

    Raises `ValueError`: what it gives is no loss; whatever else it raises itself. One that reads features is
    left to the training, whose networks have some.
    """
    if objective.needs_features:
        return
    draw = torch.Generator().manual_seed(0)

    def logits(count: int) -> Tensor:
        return torch.randn(count, IMAGES, classes, generator=draw)

    student, clean = (logits(members).requires_grad_() for _ in range(2))
    given = Predictions(
        labels=torch.arange(IMAGES) % classes,
        student=student,
        teachers=logits(teachers) if objective.needs_teachers else None,
        student_clean=clean if objective.needs_clean_student else None,
    )
    shapes = f"student {tuple(student.shape)}, teachers {(teachers, IMAGES, classes)}"
    try:
        terms = objective(given)
    except Exception as error:
        missing = "" if objective.needs_teachers else ", which it is not given without needs_teachers = True"
        raise ValueError(f"given logits of {shapes}{missing}: {type(error).__name__}: {error}") from error
    if not isinstance(terms, dict) or not isinstance(terms.get("loss"), Tensor):
        raise ValueError(f"must give a dictionary with the tensor 'loss', not {type(terms).__name__}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"gives {name!r} of shape {shape}, not a scalar (given logits of {shapes})")
        if not value.isfinite():
            raise ValueError(f"gives {name!r} = {value.item()} for ordinary logits ({shapes})")
    if not terms["loss"].requires_grad:
        raise ValueError("gives a 'loss' without a gradient: is it detached?")
    terms["loss"].backward()

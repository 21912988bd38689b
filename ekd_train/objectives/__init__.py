"""Losses: one file each, a pure function and a thin `Objective`, and one line each in `OBJECTIVES`.

A training step reads what the objective needs, collects those `Predictions`, and calls it:

>>> import torch
>>> objective = build_objective("member_kd", Distillation(temperature=4.0, alpha=0.9))
>>> objective.needs_teachers, objective.needs_clean_student
(True, False)
>>> logits = torch.zeros(2, 3, 10)  # (s, b, c)
>>> terms = objective(Predictions(labels=torch.tensor([1, 2, 3]), student=logits, teachers=logits))
>>> sorted(terms)
['distillation', 'label', 'loss']
"""

from collections.abc import Callable

from ekd_train.objectives.ce_kd import CeKd, ce_kd
from ekd_train.objectives.ekd import Ekd, ekd, feature_mse
from ekd_train.objectives.feature_projections import FeatureProjections
from ekd_train.objectives.label import Label, label_ce
from ekd_train.objectives.mean_kd import MeanKd, mean_kd
from ekd_train.objectives.member_kd import MemberKd, member_kd, member_kl
from ekd_train.objectives.objective import Objective, Predictions
from ekd_train.objectives.proxy_end2 import ProxyEnd2, proxy_end2
from ekd_train.settings import Distillation, StudentMethod

__all__ = [
    "METHOD_OBJECTIVES",
    "OBJECTIVES",
    "FeatureProjections",
    "Objective",
    "ObjectiveFactory",
    "Predictions",
    "build_objective",
    "ce_kd",
    "ekd",
    "feature_mse",
    "label_ce",
    "mean_kd",
    "member_kd",
    "member_kl",
    "objective_for",
    "proxy_end2",
]

ObjectiveFactory = Callable[[Distillation], Objective]

OBJECTIVES: dict[str, ObjectiveFactory] = {
    "label": lambda _: Label(),
    "mean_kd": lambda settings: MeanKd(alpha=settings.alpha, temperature=settings.temperature),
    "member_kd": lambda settings: MemberKd(alpha=settings.alpha, temperature=settings.temperature),
    "ekd": lambda settings: Ekd(temperature=settings.temperature, weights=settings.ekd),
    "ce_kd": lambda settings: CeKd(alpha=settings.alpha, temperature=settings.temperature),
    "proxy_end2": lambda settings: ProxyEnd2(alpha=settings.alpha, temperature=settings.temperature),
}

METHOD_OBJECTIVES: dict[StudentMethod, str] = {
    "kd": "mean_kd",
    "latent_be": "member_kd",
    "batch_ensemble": "ce_kd",
    "ekd": "ekd",
}


def build_objective(name: str, distillation: Distillation | None) -> Objective:
    """The objective of that name, with its temperature and weights.

    Args:
        name: a key of `OBJECTIVES` ("auto" is resolved before, by `objective_for`).
        distillation: its settings; None only for `label`, which has none.

    Raises `ValueError`: an unknown name, or no settings for an objective that has some.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(OBJECTIVES)}")
    if distillation is None and name != "label":
        raise ValueError(f"objective {name!r} needs distillation settings")
    return OBJECTIVES[name](distillation or Distillation())


def objective_for(method: StudentMethod, objective: str) -> str:
    """The objective's name: the one given, or the method's own where that is "auto".

    >>> objective_for("latent_be", "auto"), objective_for("latent_be", "mean_kd")
    ('member_kd', 'mean_kd')
    """
    return METHOD_OBJECTIVES[method] if objective == "auto" else objective

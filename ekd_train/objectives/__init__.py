"""Losses: a pure function in a file each, and one line each in `OBJECTIVES`.

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
from functools import partial

from torch import Tensor

from ekd_train.objectives.dist import dist
from ekd_train.objectives.dkd import dkd
from ekd_train.objectives.ekd import Ekd, ekd, feature_mse
from ekd_train.objectives.feature_projections import FeatureProjections
from ekd_train.objectives.label import LabelsOfEach, label_ce
from ekd_train.objectives.matching import Matching, confidence_weights, standardised
from ekd_train.objectives.mean_kd import mean_kd, mean_kl
from ekd_train.objectives.member_kd import member_kd, member_kl
from ekd_train.objectives.mixture import Mixture, each_member
from ekd_train.objectives.objective import Objective, Predictions, present, weighted_sum
from ekd_train.objectives.proxy_end2 import proxy_end2, proxy_end2_kl
from ekd_train.own_code import build, is_own
from ekd_train.settings import Distillation, StudentMethod

__all__ = [
    "METHOD_OBJECTIVES",
    "OBJECTIVES",
    "FeatureProjections",
    "Objective",
    "Predictions",
    "build_objective",
    "confidence_weights",
    "dist",
    "dkd",
    "ekd",
    "feature_mse",
    "label_ce",
    "mean_kd",
    "member_kd",
    "member_kl",
    "objective_for",
    "present",
    "proxy_end2",
    "proxy_end2_kl",
    "standardised",
    "weighted_sum",
]


def _mixture(distillation: Callable[..., Tensor], **options: bool) -> Callable[[Distillation], Objective]:
    return lambda settings: Mixture(
        distillation,
        alpha=settings.alpha,
        temperature=settings.temperature,
        matching=_matching(settings),
        **options,
    )


def _matching(settings: Distillation) -> Matching:
    return Matching(settings.standardise, settings.teacher_weights)


def _dkd(settings: Distillation) -> Objective:
    weights = settings.dkd
    loss = partial(dkd, target=weights.target, non_target=weights.non_target)
    return _mixture(loss, reads_labels=True)(settings)


OBJECTIVES: dict[str, Callable[[Distillation], Objective]] = {
    "label": lambda _: Mixture(member_kl, alpha=0.0, temperature=1.0),
    "mean_kd": _mixture(mean_kl),
    "member_kd": _mixture(member_kl),
    "ekd": lambda settings: Ekd(
        temperature=settings.temperature, weights=settings.ekd, matching=_matching(settings)
    ),
    "ce_kd": _mixture(member_kl, clean_labels=True),
    "proxy_end2": _mixture(each_member(proxy_end2_kl)),
    "dkd": _dkd,
    "dist": _mixture(dist),
    "papa": lambda _: LabelsOfEach(),
}
"""`ce_kd` is the ODS paper's loss (Nam, Yoon, Lee, Lee, NeurIPS 2021; there α = 0.9):
`(1 - α) CE(student(x), y) + α τ² KL(teacher m(x') ‖ member m(x'))`, labels on the clean image x, teachers on
the perturbed x'. Where no image is perturbed, or α = 1, it is `member_kd`'s."""

METHOD_OBJECTIVES: dict[StudentMethod, str] = {
    "kd": "mean_kd",
    "latent_be": "member_kd",
    "lora": "member_kd",
    "batch_ensemble": "ce_kd",
    "ekd": "ekd",
    "papa": "papa",
}


def build_objective(name: str, distillation: Distillation | None) -> Objective:
    """The objective of that name, with its temperature and weights.

    Args:
        name: a key of `OBJECTIVES` ("auto" is resolved before, by `objective_for`), or a function of
            one's own from the settings to an `Objective`.
        distillation: its settings; None only for `label`, which has none.

    Raises `ValueError`: an unknown name, or no settings for an objective that has some.
    """
    if is_own(name):
        own = build(name, distillation, **(distillation.options if distillation else {}))
        if not isinstance(own, Objective):
            raise ValueError(f"{name} gave {type(own).__name__}, not an ekd_train.objectives.Objective")
        return own
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

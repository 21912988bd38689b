"""The ways to make a student that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KINDS = ("none", "gaussian", "ods", "conf_ods", "tdiv", "tdiv_sdiv")


@dataclass(frozen=True)
class Arm:
    """One way to make a student, in terms of experiment keys."""

    name: str
    overrides: tuple[str, ...] = ()
    pool: Literal["same", "mixed"] = "same"
    """Teachers of the student's family, or half of another one."""
    made_by: Literal["distillation", "labels", "papa", "best teacher", "swa", "uniform average"] = (
        "distillation"
    )
    """`labels`: the control; `papa`: networks pulled together, of labels too; `best teacher`: KD from the one
    that is best on validation images. The last two ask whether it is the averaging of weights alone."""

    predictor: Literal["averaged", "members"] = "averaged"
    """What is compared: the averaged network, or, at their number times the cost, the members together."""

    @property
    def has_kds_settings(self) -> bool:
        """Whether it is an average along, or of, KD's own runs, or KD from fewer teachers."""
        return self.made_by in ("swa", "uniform average", "best teacher")

    @property
    def distils(self) -> bool:
        """Whether it has a temperature."""
        return self.made_by not in ("labels", "papa")

    @property
    def standardises(self) -> bool:
        """Whether its temperature is of z-scores."""
        return "distillation.standardise=true" in self.overrides

    @property
    def perturbs(self) -> bool:
        """Whether it has a strength."""
        return any(text.startswith("perturbation.kind=") and "none" not in text for text in self.overrides)


_BATCH_ENSEMBLE = (
    "student.factors={init: normal, init_std: 0.5, gradient_scale: one, decay: none, "
    "learning_rate_multiplier: 0.5, member_bias: true}",
    "student.select_by=members",
    "distillation.alpha=0.9",
)
"""Factors, labels and choice of the epoch as published (Nam et al., NeurIPS 2021). Its loss alone would make
it LatentBE wherever nothing is perturbed."""


_UNCLIPPED = "student.training.clip_norm=null"
"""What `ekd` means in records from before a sum's gradients were clipped by default."""


def _arm(method: str, kind: str) -> Arm:
    name = method if kind == "none" else f"{method}+{kind}"
    settings = (f"student.method={method}", f"perturbation.kind={kind}")
    if method == "batch_ensemble":
        return Arm(name, (*settings, *_BATCH_ENSEMBLE), predictor="members")
    return Arm(name, (*settings, _UNCLIPPED) if method == "ekd" else settings)


_KD = ("student.method=kd", "perturbation.kind=none")
_PAPA = ("student.method=papa", "perturbation.kind=none", "student.papa={every: 1, rate: 0.02}")
"""Pulled together as often as in the paper's tens of thousands of steps: with its rate, 1 % every tenth step,
some hundred steps leave networks that have nothing in common, and an average at chance."""
_LATENT_BE = ("student.method=latent_be", "perturbation.kind=none")
_EKD = ("student.method=ekd", "perturbation.kind=none")
_LSKD = "distillation.standardise=true"
_LABELS = "distillation.alpha=0.99"
"""Beside z-scores, as published (9 : 0.1): nothing else tells the student how large its logits are to be."""
_EMA = "student.training.ema=0.99"
"""Over some hundred steps, a sixth of the shortest training here."""

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("control", _KD, made_by="labels"),
        # Without members there is nothing whose diversity TDiv-SDiv could subtract.
        *(_arm("kd", kind) for kind in KINDS if kind != "tdiv_sdiv"),
        Arm("kd-lskd", (*_KD, _LSKD)),
        Arm("kd-lskd-labels", (*_KD, _LSKD, _LABELS)),
        Arm("kd-ema", (*_KD, _EMA)),
        Arm("best_teacher", _KD, made_by="best teacher"),
        Arm("papa", _PAPA, made_by="papa"),
        Arm("kd-swa", _KD, made_by="swa"),
        Arm("kd-uniform-average", _KD, made_by="uniform average"),
        *(_arm(method, kind) for method in ("batch_ensemble", "latent_be", "ekd") for kind in KINDS),
        Arm("latent_be-lskd", (*_LATENT_BE, _LSKD)),
        Arm("latent_be-ema", (*_LATENT_BE, _EMA)),
        Arm("ekd-clipped", (*_EKD, "student.training.clip_norm=3")),
        Arm("ekd-mixed", (*_EKD, _UNCLIPPED), pool="mixed"),
        Arm("latent_be-mixed", _LATENT_BE, pool="mixed"),
    )
}
"""By name, in the order of the tables."""

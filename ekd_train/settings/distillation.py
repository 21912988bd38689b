"""What a student learns from its teachers: the objective, and its temperature and weights."""

from typing import Literal

from pydantic import Field, model_validator

from ekd_train.own_code import OwnCode, is_own, refuse_options
from ekd_train.settings.base import Fraction, NonNegativeFloat, Options, Settings, Temperature

ObjectiveName = Literal["auto", "mean_kd", "member_kd", "ekd", "ce_kd", "proxy_end2", "dkd", "dist", "papa"]
PAIRING = ("auto", "member_kd", "ekd", "ce_kd", "dkd", "dist")
"""Objectives in which member m of a student that has some learns from teacher m."""


class EkdWeights(Settings):
    """Weights of EKD's loss (algorithms, section 3): a, b, c."""

    label: NonNegativeFloat = 1.0
    """Weight of each branch's cross-entropy with the labels."""
    distillation: NonNegativeFloat = 1.0
    """Weight of each branch's distillation from its teacher."""
    feature: NonNegativeFloat = 0.0
    """Weight of the difference between a branch's features and its teacher's."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of the N + 1 losses, of branches and fused prediction, that a weight is of: their sum or their mean."""

    @model_validator(mode="after")
    def _heads_learn(self) -> "EkdWeights":
        if self.label == self.distillation == 0:
            raise ValueError("label and distillation cannot both be 0: the heads would learn nothing")
        return self


class DkdWeights(Settings):
    """Weights of the two parts of DKD's loss (Zhao et al., CVPR 2022): α, β."""

    target: NonNegativeFloat = 1.0
    """Weight of the label's class against all others."""
    non_target: NonNegativeFloat = 8.0
    """Weight of the others among themselves; 1 to 10 in the paper."""


class Distillation(Settings):
    """What the student learns from."""

    objective: ObjectiveName | OwnCode = "auto"
    """`auto`: kd -> mean_kd, latent_be, lora -> member_kd, batch_ensemble -> ce_kd, ekd -> ekd, papa -> papa,
    which is labels alone. Or a function of your own, `package.module:name`, from these settings to an
    `ekd_train.objectives.Objective`."""
    options: Options = Field(default_factory=dict)
    """Keyword arguments of an objective of your own, beside these settings."""
    pairs_members: bool = False
    """Says of an objective of your own that member m learns from teacher m, as of built-in ones is known:
    members are then as many as teachers, in every trial of a search too, or `assignment: rotating` gives
    each a teacher in turn."""
    temperature: Temperature = 4.0
    """Divides the logits of teachers and student before the softmax; 1 leaves them, more softens them."""
    alpha: Fraction = 1.0
    """Weight of the distillation term; 1 - alpha weighs the labels."""
    assignment: Literal["fixed", "rotating"] = "fixed"
    """Where members are paired with teachers: `fixed`: member m learns from teacher m, of as many;
    `rotating`: there may be more teachers than members, and in step t member m learns from teacher
    (t + m) mod k. Fixed is the papers': members part only because each keeps a teacher of its own."""
    standardise: bool = False
    """Match z-scores of the logits over the classes, of teachers and student (LSKD, CVPR 2024)."""
    teacher_weights: Literal["equal", "confidence"] = "equal"
    """`confidence`: image by image a teacher counts the less, the worse it predicts the label (CA-MKD)."""
    ekd: EkdWeights = EkdWeights()
    dkd: DkdWeights = DkdWeights()

    @model_validator(mode="after")
    def _reads_logits(self) -> "Distillation":
        own = is_own(self.objective)
        if (own or self.objective == "proxy_end2") and (self.standardise or self.teacher_weights != "equal"):
            whose = self.objective if own else f"objective={self.objective}"
            raise ValueError(f"{whose} has a target of its own: leave out standardise and teacher_weights")
        refuse_options(self.options, self.objective)
        return self

    @property
    def pairs(self) -> bool:
        """Whether member m of a student that has some learns from teacher m."""
        return self.objective in PAIRING or (self.pairs_members and is_own(self.objective))

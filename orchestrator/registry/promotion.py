"""Which alias a new model version gets: a pure decision."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.experiment.infrastructure import ChampionBy

Alias = Literal["champion", "challenger"]
CHAMPION: Alias = "champion"
CHALLENGER: Alias = "challenger"
AT_CHANCE = "at chance level"
WORSE_THAN_CONTROL = "worse than its own control"
NOT_FINITE = "it has no finite"
"""How reasons begin for which a version is a challenger, whatever the champion is."""


@dataclass(frozen=True)
class Validation:
    """What versions are compared by, measured on the validation split."""

    accuracy: float
    """Fraction in [0, 1]."""
    nll: float
    """Nats an image; breaks ties of the accuracies."""
    balanced_accuracy: float = math.nan
    """Fraction in [0, 1]; not known of versions that an earlier ekd registered."""

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> "Validation | None":
        """Those metrics out of many; None if accuracy or NLL is missing."""
        try:
            return cls(metrics["accuracy"], metrics["nll"], metrics.get("balanced_accuracy", math.nan))
        except KeyError:
            return None

    def merit(self, by: ChampionBy) -> tuple[float, float]:
        """What is compared, the larger the better: the first number, then the second."""
        return (-self.nll, self.accuracy) if by == "nll" else (getattr(self, by), -self.nll)

    def comparable(self, by: ChampionBy) -> bool:
        """Whether what is compared are numbers."""
        return all(map(math.isfinite, self.merit(by)))

    def __str__(self) -> str:
        balanced = f", balanced {self.balanced_accuracy:.4f}" if math.isfinite(self.balanced_accuracy) else ""
        return f"validation accuracy {self.accuracy:.4f}{balanced}, NLL {self.nll:.4f}"


@dataclass(frozen=True)
class Promotion:
    """The alias that a version gets, and why."""

    alias: Alias
    reason: str

    def __str__(self) -> str:
        return f"{self.alias}: {self.reason}"


def doubt(
    student: Validation, control: Validation, *, by: ChampionBy, classes: int, images: int
) -> str | None:
    """Why a student is not to become champion by itself, however bad the present one is; None: no reason.

    It is at chance level (its balanced accuracy is within two standard errors of 1 / classes), or its own
    control, which needed no teachers, is better on the same images.

    Both on the same validation images, `images` of `classes` classes; `by`: what counts as better.

    >>> at_chance, control = Validation(0.1, 2.3, 0.1), Validation(0.9, 0.4, 0.9)
    >>> doubt(at_chance, control, by="accuracy", classes=10, images=500).partition(", where")[0]
    'at chance level: balanced validation accuracy 0.1000 with 10 classes'
    """
    chance = 1 / classes
    by_luck = chance + 2 * math.sqrt(chance * (1 - chance) / images)
    if student.balanced_accuracy <= by_luck:
        return (
            f"{AT_CHANCE}: balanced validation accuracy {student.balanced_accuracy:.4f} with {classes} "
            f"classes, where guessing may reach {by_luck:.4f} on {images} images"
        )
    if control.comparable(by) and student.merit(by) < control.merit(by):
        return f"{WORSE_THAN_CONTROL}, which learned from labels alone: {student} against {control}"
    return None


def decide_promotion(
    candidate: Validation | None,
    champion: Validation | None,
    *,
    vacant: bool,
    by: ChampionBy = "accuracy",
    doubted: str | None = None,
) -> Promotion:
    """`champion` moves only to a version that is strictly better on validation, and not doubted.

    Args:
        candidate: the new version's measurements, None if it has none.
        champion: the present champion's, None if it has none or, `vacant`, there is no champion.
        by: what counts as better.
        doubted: what `doubt` says of the new version.

    >>> decide_promotion(Validation(0.9, 0.3), Validation(0.9, 0.4), vacant=False).alias
    'champion'
    """
    compared = "validation accuracy and NLL" if by != "balanced_accuracy" else "balanced validation accuracy"
    if candidate is None or not candidate.comparable(by):
        return Promotion(CHALLENGER, f"{NOT_FINITE} {compared}")
    if doubted is not None:
        return Promotion(CHALLENGER, doubted)
    if vacant:
        return Promotion(CHAMPION, f"the first champion: {candidate}")
    if champion is None or not champion.comparable(by):
        return Promotion(CHALLENGER, f"the champion has no {compared} to compare with")
    better = candidate.merit(by) > champion.merit(by)
    judged = "better" if better else "not better"
    judged += f" by {by.replace('_', ' ')}" if by != "accuracy" else ""
    reason = f"{judged}: {candidate} against the champion's {champion}"
    return Promotion(CHAMPION if better else CHALLENGER, reason)

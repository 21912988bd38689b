"""Which alias a new model version gets: a pure decision."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Alias = Literal["champion", "challenger"]
CHAMPION: Alias = "champion"
CHALLENGER: Alias = "challenger"


@dataclass(frozen=True)
class Validation:
    """What versions are compared by, measured on the validation split."""

    accuracy: float
    """Fraction in [0, 1]."""
    nll: float
    """Nats an image; breaks ties of accuracy."""

    @classmethod
    def of(cls, metrics: Mapping[str, float | str]) -> "Validation | None":
        """The two metrics out of many (or out of a version's tags); None if one is missing."""
        try:
            return cls(float(metrics["accuracy"]), float(metrics["nll"]))
        except (KeyError, ValueError):
            return None

    @property
    def is_finite(self) -> bool:
        """Whether both are numbers that can be compared."""
        return math.isfinite(self.accuracy) and math.isfinite(self.nll)

    def __str__(self) -> str:
        return f"validation accuracy {self.accuracy:.4f}, NLL {self.nll:.4f}"


@dataclass(frozen=True)
class Promotion:
    """The alias that a version gets, and why."""

    alias: Alias
    reason: str

    def __str__(self) -> str:
        return f"{self.alias}: {self.reason}"


def decide_promotion(candidate: Validation | None, champion: Validation | None, *, vacant: bool) -> Promotion:
    """`champion` moves only to a version that is strictly better on validation.

    Args:
        candidate: the new version's measurements, None if it has none.
        champion: the present champion's, None if it has none or there is no champion.
        vacant: there is no champion.

    >>> decide_promotion(Validation(0.9, 0.3), Validation(0.9, 0.4), vacant=False).alias
    'champion'
    """
    if candidate is None or not candidate.is_finite:
        return Promotion(CHALLENGER, "it has no finite validation accuracy and NLL")
    if vacant:
        return Promotion(CHAMPION, f"the first champion: {candidate}")
    if champion is None or not champion.is_finite:
        return Promotion(CHALLENGER, "the champion has no validation accuracy and NLL to compare with")
    versus = f"{candidate} against the champion's {champion}"
    if candidate.accuracy != champion.accuracy:
        better = candidate.accuracy > champion.accuracy
    else:
        better = candidate.nll < champion.nll
    return (
        Promotion(CHAMPION, f"better: {versus}") if better else Promotion(CHALLENGER, f"not better: {versus}")
    )

"""The content of `evaluation.json`: what `ekd evaluate` found of one run."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from ekd_train.persistence.records import Record
from orchestrator.pipeline.manifest import EVALUATION, read_record
from orchestrator.pipeline.manifest_content import Gain, Output
from orchestrator.storage import Storage

Metrics = dict[str, float]
Predictor = Annotated[str, Field(pattern=r"^(control|ensemble|members|averaged|teacher/[0-9]+)$")]
Severity = Annotated[str, Field(pattern=r"^[0-9]+$")]


class Uncertain(Output):
    """95 % intervals of what it measures, and differences to the control's; older ones have none."""

    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    minus_control: dict[str, Gain] = Field(default_factory=dict)


class UnderCorruption(Uncertain):
    """One predictor on corrupted images (`ekd_train.robustness.evaluate.under_corruption`)."""

    kinds: dict[str, dict[Severity, Metrics]]
    severities: dict[Severity, Metrics]
    mean: Metrics
    ce: Metrics = Field(default_factory=dict)
    mce: float | None = None


class Corruption(Output):
    """All of them."""

    baseline: str
    images: int
    predictors: dict[Predictor, UnderCorruption]


class Curve(Output):
    """One predictor's risk at each coverage (`ekd_train.robustness.evaluate.selective`)."""

    aurc: float
    excess_aurc: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


class RiskCoverage(Output):
    """All of them."""

    images: int
    predictors: dict[Predictor, Curve]


class Detected(Uncertain):
    """How well one score tells foreign images (`ekd_train.robustness.evaluate.out_of_distribution`)."""

    auroc: float
    fpr_at_95: float


class OutOfDistribution(Output):
    """Every predictor's scores on images of another data set."""

    outside: str
    images: int
    predictors: dict[Predictor, dict[str, Detected]]


class EvaluationContent(Record):
    """What one evaluation measured."""

    WHAT = "an evaluation"

    format: int = 3
    """Of another one what was measured is measured again."""
    identity: str
    """Of everything that decides it."""
    run_id: str
    number: int
    """Of the evaluation, among those of the run."""
    seconds: float
    settings: dict[str, Any]
    corruption: Corruption
    risk_coverage: RiskCoverage
    out_of_distribution: OutOfDistribution | None = None

    @model_validator(mode="after")
    def _has_the_student(self) -> Self:
        for part in (self.corruption.predictors, self.risk_coverage.predictors):
            if not {"averaged", "control"} <= part.keys():
                raise ValueError("it lacks the averaged student or its control")
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without what was not measured."""
        return self.model_dump(mode="json", exclude_none=True)


FORMAT: int = EvaluationContent.model_fields["format"].default


def read_evaluation(storage: Storage) -> dict[str, Any] | None:
    """What is stored of the run's evaluation, checked, as plain values; None if nobody asked for one.

    Errors as `read_record`.
    """
    found = read_record(storage, EVALUATION, EvaluationContent)
    return None if found is None else found.to_json()

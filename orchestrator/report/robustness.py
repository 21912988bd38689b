"""The report's section on what `ekd evaluate` found, if somebody asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ekd_train.evaluation.bootstrap import Interval
from ekd_train.robustness.ood_detection import MERITS
from ekd_train.robustness.settings import FAMILIES, CorruptionName
from orchestrator.pipeline.summary import order
from orchestrator.report.charts import DASHES, MARKERS
from orchestrator.report.evidence import Evidence
from orchestrator.report.svg import COLOURS, new_figure, styled, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPARED = ("control", "ensemble", "members", "averaged")
"""Predictors of the figures and of the table of corruptions; the teachers are in the other tables."""
SCORES = {
    "max_probability": "largest probability",
    "entropy": "entropy",
    "disagreement": "disagreement within",
}
"""Of `ekd_train.robustness.ood_detection.unsureness` -> heading."""
LEAST_COVERAGE = 0.5
"""Where the risk's axis begins: below, a handful of images decide."""


@dataclass(frozen=True)
class Doubt:
    """How well a predictor's doubt tells foreign images."""

    merits: Mapping[str, float]
    intervals: dict[str, Interval]
    """By merit; evaluations used to have none."""
    minus_control: dict[str, Interval]


@dataclass(frozen=True)
class RobustnessSection:
    """The section: what was measured, its sentence, and its figures."""

    found: Mapping[str, Any]
    """The content of `evaluation.json`."""
    names: list[str]
    compared: list[str]
    headline: str
    families: dict[str, list[CorruptionName]]
    """Of the corruptions that were made."""
    intervals: dict[str, dict[str, Interval]]
    """Of the means under corruption, by predictor and metric; evaluations used to have none."""
    minus_control: dict[str, dict[str, Interval]]
    detection: dict[str, dict[str, Doubt]]
    """By predictor and score; empty where there were no foreign images."""
    corruption_chart: str
    coverage_chart: str

    @property
    def corruption(self) -> Mapping[str, Any]:
        """By predictor."""
        by_predictor: Mapping[str, Any] = self.found["corruption"]["predictors"]
        return by_predictor

    @property
    def scores_of_control(self) -> set[str]:
        """What others can be compared with: a single network has no disagreement."""
        return set(self.detection.get("control", {}))

    @property
    def detection_has_intervals(self) -> bool:
        """Evaluations used to have none."""
        return any(of.intervals for by_score in self.detection.values() for of in by_score.values())


def robustness_section(evidence: Evidence) -> RobustnessSection | None:
    """The section of a run; None where `ekd evaluate` was not called."""
    found = evidence.evaluation
    if found is None:
        return None
    names = order(found["corruption"]["predictors"])
    compared = [name for name in COMPARED if name in names]
    corruption = found["corruption"]["predictors"]
    kinds = corruption["averaged"]["kinds"]
    families = {family: [kind for kind in members if kind in kinds] for family, members in FAMILIES.items()}
    return RobustnessSection(
        found=found,
        names=names,
        compared=compared,
        headline=_headline(found),
        families={family: members for family, members in families.items() if members},
        intervals={name: _intervals(of["mean"], of) for name, of in corruption.items()},
        minus_control={name: _minus_control(of) for name, of in corruption.items()},
        detection={
            name: {
                score: Doubt({m: of[m] for m in MERITS}, _intervals(of, of), _minus_control(of))
                for score, of in by_score.items()
            }
            for name, by_score in found.get("out_of_distribution", {"predictors": {}})["predictors"].items()
        },
        corruption_chart=corruption_chart(evidence, found, compared),
        coverage_chart=coverage_chart(found, compared),
    )


def _intervals(values: Mapping[str, float], of: Mapping[str, Any]) -> dict[str, Interval]:
    return {metric: Interval(values[metric], *ends) for metric, ends in of.get("intervals", {}).items()}


def _minus_control(of: Mapping[str, Any]) -> dict[str, Interval]:
    return {metric: Interval(**one) for metric, one in of.get("minus_control", {}).items()}


def _headline(found: Mapping[str, Any]) -> str:
    by_predictor = found["corruption"]["predictors"]
    averaged, control = by_predictor["averaged"], by_predictor["control"]
    sentence = (
        f"On corrupted images the averaged student reaches {100 * averaged['mean']['accuracy']:.1f} % "
        f"accuracy, the control {100 * control['mean']['accuracy']:.1f} %"
    )
    if "ensemble" in by_predictor:
        sentence += f" and the ensemble {100 * by_predictor['ensemble']['mean']['accuracy']:.1f} %"
    if "mce" in averaged:
        sentence += f"; its mean corruption error is {averaged['mce']:.2f} times the control's"
    return f"{sentence}."


@styled
def corruption_chart(evidence: Evidence, found: Mapping[str, Any], compared: list[str]) -> str:
    """Accuracy and calibration error over severity, the clean test images being severity 0."""
    corrupted = found["corruption"]["predictors"]
    figure = new_figure(9.6, 3.6)
    panels: tuple[Axes, Axes] = tuple(figure.subplots(1, 2))
    severities = sorted(corrupted["averaged"]["severities"], key=int)
    for axes, metric, scale, title in zip(
        panels, ("accuracy", "ece"), (100, 1), ("Accuracy, %", "ECE, before temperature"), strict=True
    ):
        for name in compared:
            values = [evidence.predictors[name].test[metric]]
            values += [corrupted[name]["severities"][s][metric] for s in severities]
            axes.plot(
                [0, *map(int, severities)],
                [scale * value for value in values],
                marker=MARKERS[name],
                color=COLOURS[name],
                label=name,
                markersize=5,
                zorder=3 if name == "averaged" else 2,
            )
        axes.set_title(title)
        axes.set_xlabel("severity (0: clean test images)")
        axes.set_xticks([0, *map(int, severities)])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    spoken = "; ".join(
        f"{name}: accuracy from {100 * evidence.predictors[name].test['accuracy']:.1f} % clean to "
        f"{100 * corrupted[name]['severities'][severities[-1]]['accuracy']:.1f} % at {severities[-1]}"
        for name in compared
    )
    return to_svg(figure, "corruption", "Accuracy and calibration error under corruption", f"{spoken}.")


@styled
def coverage_chart(found: Mapping[str, Any], compared: list[str]) -> str:
    """Error among the answered images over the fraction that is answered."""
    curves = found["risk_coverage"]["predictors"]
    figure = new_figure(9.6, 3.1)
    axes = figure.subplots()
    for name in compared:
        points = [
            (100 * coverage, 100 * risk)
            for coverage, risk in zip(curves[name]["coverage"], curves[name]["risk"], strict=True)
            if coverage >= LEAST_COVERAGE
        ]
        axes.plot(*zip(*points, strict=True), color=COLOURS[name], linestyle=DASHES[name], label=name)
    axes.set_title("Errors among the answered images, %")
    axes.set_xlabel("answered, % of the test images, the surest first")
    axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    spoken = "; ".join(f"{name}: area {curves[name]['aurc']:.4f}" for name in compared)
    return to_svg(figure, "coverage", "Risk against coverage", f"{spoken}.")

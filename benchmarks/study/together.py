"""Several regimes beside each other: what every arm gains over the control in each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.study.figures import save
from benchmarks.study.results import LEVEL, ArmResult, Pools, difference, interval, spread

PANELS = (("accuracy", "test accuracy − control, points", 100), ("cnll", "calibrated test NLL − control", 1))
APART, TOGETHER = 0.08, 0.8
"""Between two arms of a regime, in the figure, and all of them at most; regimes are 1 apart."""
MARKERS = "osD^v<>PX*"
"""With ten colours: told apart are 90 arms."""


@dataclass(frozen=True)
class Compared:
    """One regime's results."""

    regime: str
    pools: Pools
    arms: Sequence[ArmResult]

    def arm(self, name: str) -> ArmResult:
        """The arm of that name, which every regime has."""
        return next(arm for arm in self.arms if arm.name == name)

    def ensemble(self, metric: str) -> float:
        """The teachers' ensemble on test images, the mean over their sets."""
        return mean(one["ensemble"]["test"][metric] for one in self.pools["same"])

    def gain_of_the_ensemble(self) -> float:
        """Its accuracy above its teachers' mean: what bounds distillation."""
        teachers = [each["test"]["accuracy"] for one in self.pools["same"] for each in one["teachers"]]
        return self.ensemble("accuracy") - mean(teachers)


def overview(regimes: Sequence[Compared], *, command: str, chosen: str, picture: str) -> str:
    """A page in Markdown: accuracies, and differences to the control, of every arm in every regime.

    Args:
        regimes: in the order of the tables, with the same arms.
        command: what made them.
        chosen: how temperature, strength and rate were found, to follow "are".
        picture: the figure's file, beside the page.
    """
    names = [arm.name for arm in regimes[0].arms]
    lines = [
        "# Study: " + ", ".join(one.regime for one in regimes),
        "",
        f"![What every arm gains over the control in each regime]({picture})",
        "",
        f"`{command}`: mean ± standard deviation over sets of teachers and seeds of students. Temperature, "
        f"strength and rate are {chosen}. Differences are of cells with the same teachers and seed, with "
        f"Student's {100 * LEVEL:g} % interval, in bold where it leaves out 0. Of so many intervals some do "
        "by chance. Each regime has a page of its own.",
        "",
        "Test accuracy, %:",
        "",
        f"| regime | ensemble − teachers | {' | '.join(names)} | ensemble |",
        f"|---|---:|{'---:|' * len(names)}---:|",
    ]
    for one in regimes:
        cells = [spread(one.arm(name).values("accuracy"), 100) for name in names]
        gain, ensemble = 100 * one.gain_of_the_ensemble(), 100 * one.ensemble("accuracy")
        lines.append(f"| {one.regime} | {gain:+.2f} | {' | '.join(cells)} | {ensemble:.2f} |")
    return "\n".join([*lines, "", *_differences(regimes, names)])


def _differences(regimes: Sequence[Compared], names: Sequence[str]) -> Iterator[str]:
    others = [name for name in names if name != "control"]
    for metric, title, scale in PANELS:
        yield from (f"{title[:1].upper()}{title[1:]}:", "", f"| regime | {' | '.join(others)} |")
        yield f"|---|{'---:|' * len(others)}"
        for one in regimes:
            control = one.arm("control").by_pair(metric)
            cells = [
                interval(difference(one.arm(name).by_pair(metric), control), scale, 2 if scale == 100 else 4)
                for name in others
            ]
            yield f"| {one.regime} | {' | '.join(cells)} |"
        yield ""


def draw_regimes(path: Path, regimes: Sequence[Compared]) -> None:
    """Every arm's difference to the control, with its interval where there are seeds for one."""
    from matplotlib.figure import Figure

    names = [arm.name for arm in regimes[0].arms if arm.name != "control"]
    figure = Figure(figsize=(11, 3.6 + 0.05 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    apart = min(APART, TOGETHER / len(names))
    for axes, (metric, label, scale) in zip(panels, PANELS, strict=True):
        for index, name in enumerate(names):
            shift = apart * (index - (len(names) - 1) / 2)
            middles, lows, highs = zip(*_points(regimes, name, metric, scale), strict=True)
            reach = [
                [middle - low for middle, low in zip(middles, lows, strict=True)],
                [high - middle for middle, high in zip(middles, highs, strict=True)],
            ]
            places = [place + shift for place in range(len(regimes))]
            marker = MARKERS[index // 10 % len(MARKERS)]
            axes.errorbar(places, middles, yerr=reach, fmt=marker, markersize=5, capsize=2, label=name)
        ensemble = [
            scale * (one.ensemble(metric) - mean(one.arm("control").values(metric))) for one in regimes
        ]
        axes.plot(range(len(regimes)), ensemble, "_", color="0.3", markersize=18, label="ensemble")
        axes.axhline(0, color="0.6", linestyle=":")
        axes.set_xticks(range(len(regimes)), [one.regime for one in regimes], rotation=15, ha="right")
        axes.set_ylabel(label)
        axes.grid(axis="y", color="0.9")
    save(figure, panels, path, "together")


def _points(
    regimes: Sequence[Compared], name: str, metric: str, scale: float
) -> Iterator[tuple[float, float, float]]:
    """An arm's difference to the control and the ends of its interval, NaN where there is none."""
    for one in regimes:
        ours, control = one.arm(name).by_pair(metric), one.arm("control").by_pair(metric)
        middle = mean(ours.values()) - mean(control.values())
        found = difference(ours, control) or (middle, math.nan, math.nan)
        yield scale * found[0], scale * found[1], scale * found[2]

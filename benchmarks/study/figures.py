"""The study's figures, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.study.results import ArmResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (("accuracy", "test accuracy, %", 100), ("nll", "test NLL", 1), ("cnll", "test NLL, calibrated", 1))
SERIES = (("averaged", "o", "averaged"), ("members", "^", "members"))
FAR = 30
"""Times the median distance from the middle arm, beyond which an arm has failed: it would hide the others."""


def draw_arms(
    path: Path, regime: str, pools: Mapping[str, Mapping[str, Any]], arms: Sequence[ArmResult]
) -> None:
    """Every arm's averaged network and members, beside the ensemble and the mean teacher."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": regime, "font.size": 9}):
        figure = Figure(figsize=(11, 1.2 + 0.24 * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (metric, label, scale) in zip(panels, PANELS, strict=True):
            for predictor, marker, name in SERIES:
                rows = [
                    (i, values) for i, arm in enumerate(arms) if (values := arm.values(metric, predictor))
                ]
                axes.errorbar(
                    [scale * mean(values) for _, values in rows],
                    [i for i, _ in rows],
                    xerr=[scale * stdev(values) if len(values) > 1 else 0 for _, values in rows],
                    fmt=marker,
                    capsize=2,
                    markersize=5,
                    label=f"{name} (± sd over seeds)",
                )
            same = pools["same"]
            teachers = mean(teacher["test"][metric] for teacher in same["teachers"])
            axes.axvline(scale * teachers, color="0.6", linestyle=":", label="teachers, mean")
            axes.axvline(
                scale * same["ensemble"]["test"][metric], color="0.3", linestyle="--", label="ensemble"
            )
            centres = {
                i: scale * mean(values)
                for i, arm in enumerate(arms)
                if (values := arm.values(metric, "averaged"))
            }
            _leave_out_what_failed(axes, centres)
            axes.set_xlabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(6))
            axes.grid(axis="x", color="0.9")
        panels[0].set_yticks(range(len(arms)), [arm.name for arm in arms])
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


def _leave_out_what_failed(axes: Axes, centres: Mapping[int, float]) -> None:
    """Fit the axis to all arms but those far from the middle ones, which are written at its edge."""
    middle = median(centres.values())
    usual = median(abs(value - middle) for value in centres.values())
    failed = {i: value for i, value in centres.items() if abs(value - middle) > FAR * usual > 0}
    if not failed:
        return
    kept = [value for i, value in centres.items() if i not in failed]
    room = 0.6 * (max(kept) - min(kept))
    low, high = min(kept) - room, max(kept) + room
    axes.set_xlim(low, high)
    for i, value in failed.items():
        left = value < low
        axes.annotate(
            f"← {value:.3g}" if left else f"{value:.3g} →",
            (low if left else high, i),
            ha="left" if left else "right",
            va="center",
        )

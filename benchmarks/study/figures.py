"""The study's figures, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from benchmarks.study.results import ArmResult, Pools

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("accuracy", "test accuracy, %", 100),
    ("nll", "test NLL", 1),
    ("cnll", "test NLL, calibrated", 1),
    ("ece", "test ECE", 1),
)
SERIES = (("averaged", "o", "averaged"), ("members", "^", "members"))
FAR = 8
"""Times the median distance from the middle arm, beyond which an arm has failed: it would hide the others."""
FEW = 5
"""Arms, fewer than which have no usual distance."""


def draw_arms(path: Path, regime: str, pools: Pools, arms: Sequence[ArmResult]) -> None:
    """Every arm's averaged network and members, beside the ensemble and the mean teacher.

    Of an arm that is compared by its members the averaged network is left out: it is not made to be averaged.
    """
    figure, panels = _rows_of_arms(arms, len(PANELS))
    same = pools["same"]
    for axes, (metric, label, scale) in zip(panels, PANELS, strict=True):
        for predictor, marker, name in SERIES:
            values = {
                i: arm.values(metric, predictor)
                for i, arm in enumerate(arms)
                if predictor == "members" or arm.arm.predictor == "averaged"
            }
            _draw(axes, values, scale, marker, name)
        teachers = mean(teacher["test"][metric] for one in same for teacher in one["teachers"])
        axes.axvline(scale * teachers, color="0.6", linestyle=":", label="teachers, mean")
        ensemble = scale * mean(one["ensemble"]["test"][metric] for one in same)
        axes.axvline(ensemble, color="0.3", linestyle="--", label="ensemble")
        centres = {i: scale * mean(arm.values(metric)) for i, arm in enumerate(arms)}
        _leave_out_what_failed(axes, centres)
        axes.set_xlabel(label)
    save(figure, panels, path, regime)


def draw_members(path: Path, regime: str, arms: Sequence[ArmResult]) -> None:
    """What averaging loses, and how far members differ, of every arm that has some."""
    arms = [arm for arm in arms if arm.values("accuracy", "members")]
    figure, panels = _rows_of_arms(arms, 3)
    _draw(panels[0], {i: arm.gaps() for i, arm in enumerate(arms)}, 100, "o", "members")
    panels[0].axvline(0, color="0.3", linestyle="--")
    panels[0].set_xlabel("members − averaged, points")
    if any(arm.arm.predictor == "members" for arm in arms):
        panels[0].set_xscale("symlog", linthresh=1)
        panels[0].set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        panels[0].minorticks_off()
        panels[0].set_xlim(-1, 100)
    for axes, key, label, scale in (
        (panels[1], "agreement", "two members agree, % of test images", 100),
        (panels[2], "pairwise_kl", "KL between two members, nats", 1),
    ):
        found = {i: [cell["diversity"][key] for cell in arm.cells] for i, arm in enumerate(arms)}
        _draw(axes, found, scale, "o", "members")
        axes.set_xlabel(label)
    save(figure, panels, path, regime)


def _rows_of_arms(arms: Sequence[ArmResult], panels: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 1.2 + 0.24 * len(arms)), layout="constrained")
    found: Sequence[Axes] = figure.subplots(1, panels, sharey=True)
    for axes in found:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color="0.9")
    found[0].set_yticks(range(len(arms)), [arm.name for arm in arms])
    found[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure, found


def _draw(axes: Axes, values: Mapping[int, Sequence[float]], scale: float, marker: str, name: str) -> None:
    """Each row's mean and spread; a row without values stays empty."""
    rows = {i: [scale * one for one in some] for i, some in values.items() if some}
    several = any(len(some) > 1 for some in rows.values())
    spreads = [stdev(some) if len(some) > 1 else 0 for some in rows.values()]
    axes.errorbar(
        [mean(some) for some in rows.values()],
        list(rows),
        xerr=spreads if several else None,
        fmt=marker,
        capsize=2,
        markersize=5,
        label=f"{name} (± sd over seeds)" if several else f"{name} (one seed)",
    )


def save(figure: Figure, panels: Sequence[Axes], path: Path, regime: str) -> None:
    """Write the SVG, the same for the same numbers, with the first panel's legend above all."""
    import matplotlib

    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": regime}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _leave_out_what_failed(axes: Axes, centres: Mapping[int, float]) -> None:
    """Fit the axis to all arms but those far from the middle ones, which are written at its edge."""
    middle = median(centres.values())
    usual = median(abs(value - middle) for value in centres.values())
    failed = {i: value for i, value in centres.items() if abs(value - middle) > FAR * usual > 0}
    if not failed or len(centres) < FEW:
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
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0},
        )

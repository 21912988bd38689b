"""The report's figures. Each function returns one `<svg>`, described in words for screen readers."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from orchestrator.pipeline.summary import compact, kind_of
from orchestrator.report.evidence import Evidence
from orchestrator.report.findings import Findings, Row
from orchestrator.report.svg import COLOURS, draw_history, new_figure, over_epochs, styled, to_svg

MARKERS = {"control": "s", "teacher": ".", "ensemble": "D", "members": "^", "averaged": "o"}
"""Predictors differ in shape as well as in colour."""
DASHES: dict[str, Any] = {
    "control": (0, (6, 1.5, 1.5, 1.5)),
    "unpruned": "--",
    "teacher": "-",
    "ensemble": (0, (6, 2)),
    "members": ":",
    "averaged": "-",
}
"""And the lines of charts that compare them: in print their colours are the same grey."""
LEAST_SPAN = 1.1
"""Of a logarithmic axis: the ratio of values below which it is widened."""


@styled
def cost_chart(findings: Findings) -> str:
    """Accuracy against parameters, multiply-accumulates and, if it was measured, latency."""
    rows = findings.rows
    timed = [row for row in rows if row.values.latency_ms]
    panels: list[tuple[str, Callable[[Row], list[float]], list[Row]]] = [
        ("parameters", lambda row: [row.values.params], rows),
        ("multiply-accumulates an image", lambda row: [row.values.macs], rows),
    ]
    if timed:
        size = max(timed[0].values.latency_ms or {}, key=int)
        panels.append((f"ms an image, batches of {size}", lambda row: _ms_an_image(row, size), timed))
    figure = new_figure(9.6, 3.7)
    axes_row = figure.subplots(1, len(panels), sharey=True)
    for axes, (label, price, shown) in zip(axes_row, panels, strict=True):
        for row in shown:
            kind = kind_of(row.name)
            interval = row.intervals["accuracy"]
            value = 100 * interval.value
            costs, *quartiles = price(row)
            axes.errorbar(
                costs,
                value,
                xerr=[[costs - quartiles[0]], [quartiles[1] - costs]] if quartiles else None,
                yerr=[[value - 100 * interval.low], [100 * interval.high - value]],
                fmt=MARKERS[kind],
                color=COLOURS[kind],
                markersize=9 if kind != "teacher" else 8,
                elinewidth=1 if kind != "teacher" else 0.6,
                label=kind if row.name in (kind, "teacher/0") else None,
                zorder=3 if kind == "averaged" else 2,
            )
        axes.set_xlim(0, 1.1 * max(max(price(row)) for row in shown))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda x, _: compact(x))
        axes.set_xlabel(label)
    axes_row[0].set_ylabel("test accuracy, %")
    figure.legend(*axes_row[0].get_legend_handles_labels(), loc="outside upper left", ncols=5)
    spoken = "; ".join(
        f"{row.name}: {100 * row.values.test['accuracy']:.1f} % at "
        f"{compact(row.values.params)} parameters and {compact(row.values.macs)} MACs"
        for row in rows
    )
    return to_svg(figure, "cost", "Accuracy against inference cost", f"With 95 % intervals. {spoken}.")


def _ms_an_image(row: Row, size: str) -> list[float]:
    """The median, and the quartiles where they were recorded: runs of before recorded the median alone."""
    quartiles = (row.values.latency_quartiles_ms or {}).get(size, ())
    return [ms / int(size) for ms in ((row.values.latency_ms or {})[size], *quartiles)]


@styled
def reliability_chart(findings: Findings) -> str:
    """Reliability before (dashed) and after the temperature, and how often each confidence is given."""
    names = [name for name in ("control", "ensemble", "members", "averaged") if _has(findings, name)]
    figure = new_figure(9.6, 3.6)
    grid = figure.subplots(2, len(names), sharex=True, sharey="row", height_ratios=(3, 1))
    for column, name in enumerate(names):
        curve, histogram = grid[0][column], grid[1][column]
        curve.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.8)
        for calibrated in (False, True):
            bins = findings.reliability(name, calibrated)
            curve.plot(
                bins.confidence,
                bins.accuracy,
                "o-" if calibrated else "o--",
                color=COLOURS[name],
                markersize=4,
                markerfacecolor=COLOURS[name] if calibrated else "none",
            )
            if calibrated:
                histogram.bar(bins.confidence, [100 * s for s in bins.share], 0.05, color=COLOURS[name])
        test = findings.evidence.predictors[name].test
        curve.set_title(name)
        curve.set_title(
            f"ECE {test['ece']:.3f} → {test['cece']:.3f}",
            loc="right",
            fontsize=8.5,
            fontweight="normal",
            color=COLOURS["muted"],
        )
        histogram.set_xlabel("confidence")
        curve.set_xlim(0, 1.02)
        curve.set_ylim(0, 1.02)
    grid[1][0].set_ylim(0, 100)
    grid[1][0].set_yticks([50, 100])
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("images, %")
    spoken = "; ".join(
        f"{name}: ECE {findings.evidence.predictors[name].test['ece']:.3f} before and "
        f"{findings.evidence.predictors[name].test['cece']:.3f} after"
        for name in names
    )
    return to_svg(figure, "reliability", "Reliability before and after temperature scaling", f"{spoken}.")


@styled
def learning_chart(evidence: Evidence) -> str:
    """Training loss, validation accuracy, validation NLL and the averaging gap, over epochs."""
    figure = new_figure(9.6, 5.6)
    (loss, accuracy), (nll, gap) = figure.subplots(2, 2, sharex=True)
    for run, history in evidence.histories.items():
        if "train/loss" not in history[-1]:
            continue  # a teacher that existed already has learned elsewhere
        kind = "averaged" if run == "student" else kind_of(run.replace("-", "/"))
        label = {"averaged": "student, averaged"}.get(kind, kind if run in (kind, "teacher-0") else None)
        style = _line(kind, label) | {"linestyle": DASHES[kind]}
        draw_history(loss, history, "train/loss", **style)
        draw_history(accuracy, history, "averaged/accuracy", scale=100, **style)
        draw_history(nll, history, "averaged/nll", **style)
        if all("averaging_gap" in record for record in history):
            members = _line("members", "student, members") | {"linestyle": DASHES["members"]}
            draw_history(accuracy, history, "members/accuracy", scale=100, **members)
            draw_history(nll, history, "members/nll", **members)
            draw_history(gap, history, "averaging_gap", scale=100, **_line("averaged", None))
    for axes, title in (
        (loss, "Training loss (labels: cross-entropy; teachers: τ² KL)"),
        (accuracy, "Validation accuracy, %"),
        (nll, "Validation NLL"),
        (gap, "Averaging gap, points (members − averaged)"),
    ):
        axes.set_title(title)
    for axes in (loss, nll):
        _log_scale(axes)
    accuracy.set_ylim(bottom=_useful_floor(evidence))
    gap.axhline(0, color=COLOURS["muted"], linewidth=0.8)
    if not gap.get_lines()[1:]:
        gap.text(0.5, 0.5, "the student has no members", ha="center", transform=gap.transAxes)
    for axes in (nll, gap):
        over_epochs(axes)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper left", ncols=5)
    last = evidence.histories["student"][-1]
    return to_svg(
        figure,
        "learning",
        "Learning curves",
        f"{len(evidence.histories)} training runs; the averaged student ends at validation accuracy "
        f"{100 * last['averaged/accuracy']:.1f} % and NLL {last['averaged/nll']:.3f}.",
    )


@styled
def diversity_chart(evidence: Evidence, findings: Findings) -> str | None:
    """How the diversity of members and teachers went in training; None without members."""
    history = evidence.histories["student"]
    if not all("members_diversity/pairwise_kl" in record for record in history):
        return None
    figure = new_figure(9.6, 2.9)
    panels = figure.subplots(1, 2)
    for axes, key, title in zip(
        panels,
        ("pairwise_kl", "agreement"),
        ("Pairwise KL, nats", "Agreement, fraction of images"),
        strict=True,
    ):
        draw_history(axes, history, f"members_diversity/{key}", **_line("members", "members, validation"))
        for who, kind in (("teachers", "ensemble"), ("members", "members")):
            if all(f"train/{who}_diversity/{key}" in record for record in history):
                style = _line(kind, f"{who}, images trained on") | {"linestyle": ":"}
                draw_history(axes, history, f"train/{who}_diversity/{key}", **style)
        if "teachers" in findings.diversities:
            axes.axhline(
                findings.diversities["teachers"][key],
                color=COLOURS["ensemble"],
                linestyle="--",
                linewidth=1.2,
                label="teachers, test, at the end",
            )
        axes.set_title(title)
        over_epochs(axes)
    _log_scale(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    last = history[-1]
    return to_svg(
        figure,
        "diversity",
        "Diversity of teachers and members in training",
        f"At the end the members' pairwise KL is {last['members_diversity/pairwise_kl']:.4f} nats and they "
        f"agree on {100 * last['members_diversity/agreement']:.1f} % of the validation images.",
    )


def _line(kind: str, label: str | None) -> dict[str, Any]:
    if kind == "unpruned":  # what a pruned student and its control start from: the control before its cut
        return _line("control", label)
    thin = {"linewidth": 0.9} if kind == "teacher" else {}
    return {"color": COLOURS[kind], "label": label, "zorder": 2 if kind == "teacher" else 3, **thin}


def _log_scale(axes: Axes) -> None:
    """With plain numbers: a screen reader would spell powers of ten digit by digit."""
    least, most = axes.dataLim.minposy, axes.dataLim.y1
    if most <= 0:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if most < LEAST_SPAN * least:  # for equal values matplotlib would show empty decades
        axes.set_ylim(least / LEAST_SPAN, most * LEAST_SPAN)
    low, high = axes.get_ylim()
    if high < 30 * low:  # a decade or two would have one label, or none
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _useful_floor(evidence: Evidence) -> float:
    """Where the accuracy axis begins: below the last half of every run, not at the first epoch's chance."""
    later = [
        record["averaged/accuracy"]
        for history in evidence.histories.values()
        for record in history[len(history) // 2 :]
    ]
    return max(0.0, 100 * min(later) - 8)


def _has(findings: Findings, name: str) -> bool:
    predictors: Mapping[str, Any] = findings.evidence.predictors
    return name in predictors

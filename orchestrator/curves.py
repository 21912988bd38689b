"""Pictures of training, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]
"""One record for each validated epoch, as `ekd_train.evaluate.validate` names the values."""


def training_curves(histories: Mapping[str, History]) -> Figure:
    """Training loss, validation accuracy, and the averaging gap with the factors' range, over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained", dpi=110)
    loss, accuracy, gap = figure.subplots(1, 3)
    for name, history in histories.items():
        epochs = [record["epoch"] for record in history]
        style = {"color": "0.7"} if name.startswith("teacher") else {"linewidth": 1.8}
        label = name if not name.startswith("teacher") or name == "teacher-0" else None
        loss.plot(epochs, [r["train/loss"] for r in history], label=label, **style)
        accuracy.plot(
            epochs, [100 * r["averaged/accuracy"] for r in history], label=_averaged(label), **style
        )
        if all("members/accuracy" in r for r in history):
            members = [100 * r["members/accuracy"] for r in history]
            accuracy.plot(epochs, members, label="student's members", linestyle=":", linewidth=1.8)
            gap.plot(epochs, [100 * r["averaging_gap"] for r in history], label="averaging gap (points)")
        if all("factors/r_min" in r for r in history):
            for factor in ("r", "s"):
                low, high = ([r[f"factors/{factor}_{end}"] for r in history] for end in ("min", "max"))
                gap.fill_between(epochs, low, high, alpha=0.3, label=f"range of factors {factor}")
    for axes, title in ((loss, "training loss"), (accuracy, "validation accuracy, %"), (gap, "averaging")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, "the student has no members", ha="center", transform=axes.transAxes)
    return figure


def _averaged(label: str | None) -> str | None:
    return "student, averaged" if label == "student" else label

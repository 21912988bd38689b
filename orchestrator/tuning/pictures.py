"""The search as pictures: parallel coordinates, what matters, and how trials were stopped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.tuning.domains import Choice, LogUniform
from orchestrator.tuning.ledger import TrialRecord
from orchestrator.tuning.space import Space
from orchestrator.tuning.table import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 0.02
"""Height by which lines of equal choices are moved apart."""
FEWEST_FOR_IMPORTANCE = 4


def parallel_coordinates(space: Space, trials: Sequence[TrialRecord]) -> Figure:
    """One axis for each key and one for the validation accuracy; one line for each trial."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * (len(space.domains) + 1) + 1, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    scores = [100 * record.quality[0] for record in trials]
    colours = ScalarMappable(Normalize(min(scores), max(scores)), "viridis")

    def style(record: TrialRecord) -> dict[str, Any]:
        colour = colours.to_rgba(100 * record.quality[0])  # type: ignore[arg-type]
        if record.status == "completed":
            return {"color": colour, "alpha": 0.95, "linewidth": 2}
        return {"color": colour, "alpha": 0.5, "linewidth": 1.2, "linestyle": "--"}

    draw_trials(axes, space, trials, style, lines="0.3")
    axes.set_title("trials (dashed: stopped early)", fontsize="medium")
    figure.colorbar(colours, ax=axes, label="validation accuracy, %")
    return figure


def draw_trials(
    axes: Axes,
    space: Space,
    trials: Sequence[TrialRecord],
    style: Callable[[TrialRecord], Mapping[str, Any]],
    *,
    lines: str,
) -> None:
    """Parallel coordinates in `axes`: a line for each trial, the best on top.

    Args:
        axes: of a figure of its own.
        space: has a vertical line for each key; the last one is for the validation accuracy.
        trials: that reported; all of them have `quality`.
        style: of a trial's line, as `Axes.plot` takes it.
        lines: colour of the vertical lines.
    """
    keys = [*space.domains, "validation accuracy"]
    scores = [100 * record.quality[0] for record in trials]
    low, high = min(scores), max(scores)
    ranked = sorted(zip(trials, scores, strict=True), key=lambda pair: pair[1])
    for rank, (record, score) in enumerate(ranked):
        # Lines of equal choices lie beside each other.
        apart = APART * (0.5 - rank / max(1, len(trials) - 1))
        heights = [position(domain, record.values[key]) + apart for key, domain in space.domains.items()]
        heights.append((score - low) / (high - low) if high > low else 0.5)
        axes.plot(heights, **{"zorder": 2, **style(record)})
    for index in range(len(keys)):
        axes.axvline(index, color=lines, linewidth=0.8)
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    for index, domain in enumerate(space.domains.values()):
        for value in domain.points(3):
            axes.annotate(short(value), (index, position(domain, value)), (-4, 0), ha="right", **beside)
    for height, score in ((0.0, low), (1.0, high)):
        axes.annotate(f"{score:.2f} %", (len(space.domains), height), (4, 0), **beside)
    axes.set_xticks(range(len(keys)), [key.replace(".", ".\n") for key in keys])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.12)


def importance(space: Space, trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Share of each key in what a random forest learns of the validation accuracy; sums to 1.

    Permutation importance on the trials themselves: it ranks, it does not predict. Empty with
    fewer than four trials, or when all are equally good.
    """
    scores = np.array([record.quality[0] for record in trials])
    if len(trials) < FEWEST_FOR_IMPORTANCE or np.ptp(scores) == 0:
        return {}
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    points = np.array(
        [[position(domain, r.values[key]) for key, domain in space.domains.items()] for r in trials]
    )
    forest = RandomForestRegressor(n_estimators=100, random_state=0).fit(points, scores)
    found = permutation_importance(forest, points, scores, n_repeats=20, random_state=0)
    positive = np.clip(found.importances_mean, 0, None)
    total = positive.sum()
    if total == 0:
        return {}
    shares = (positive / total).tolist()
    return dict(sorted(zip(space.domains, shares, strict=True), key=lambda item: -item[1]))


def importance_bars(shares: Mapping[str, float]) -> Figure:
    """The importance of each key, the largest on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.5 * max(1, len(shares))), layout="constrained", dpi=110)
    axes = figure.subplots()
    if shares:
        keys = list(shares)[::-1]
        axes.barh(keys, [shares[key] for key in keys])
    else:
        axes.text(0.5, 0.5, "too few trials, or all alike", ha="center", transform=axes.transAxes)
    axes.set_title("importance for the validation accuracy", fontsize="medium")
    axes.set_xlim(0, 1)
    return figure


def curves(trials: Sequence[TrialRecord]) -> Figure:
    """Validation accuracy over epochs; lines that end early were stopped."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    best = max(trials, key=lambda record: record.quality)
    for record in trials:
        axes.plot(
            [r["epoch"] for r in record.history],
            [100 * r["averaged/accuracy"] for r in record.history],
            color="C3" if record is best else "0.6" if record.status == "completed" else "C0",
            alpha=1 if record is best else 0.6,
            linewidth=2 if record is best else 1,
            marker="." if len(record.history) == 1 else None,
            label=f"{record.name} (best)" if record is best else None,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy of the averaged student, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def page(title: str, space: Space, trials: Sequence[TrialRecord], figures: Mapping[str, Figure]) -> str:
    """One HTML file with everything in it: the pictures and the table of trials, best first."""
    pictures = "\n".join(
        f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{_png(figure)}">'
        for name, figure in figures.items()
    )
    headings = ["trial", "state", "epochs", "validation accuracy", "NLL", *space.domains]
    rows = [
        [
            record.name,
            record.status + (f": {record.error}" if record.error else ""),
            str(record.epochs),
            f"{100 * record.quality[0]:.2f} %" if record.history else "",
            f"{-record.quality[1]:.4f}" if record.history else "",
            *(short(record.values[key]) for key in space.domains),
        ]
        for record in sorted(trials, key=lambda r: (*(-q for q in r.quality), r.number))
    ]
    reasons = "".join(
        f"<dt><code>{html.escape(key)}</code>: {html.escape(domain.describe())}</dt>"
        f"<dd>{html.escape(domain.reason)}</dd>"
        for key, domain in space.domains.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }}
img {{ max-width: 100% }} table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) {{ text-align: left }}
</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{html.escape(space.description)}</p><dl>{reasons}</dl>
{pictures}
<h2>Trials</h2>
<table><thead>{_row("th", headings)}</thead><tbody>{"".join(_row("td", row) for row in rows)}</tbody></table>
</body></html>
"""


def position(domain: Any, value: Any) -> float:
    """Where a value lies in its domain, from 0 to 1."""
    if isinstance(domain, Choice):
        return domain.choice.index(value) / max(1, len(domain.choice) - 1)
    low, high = domain.ends
    if isinstance(domain, LogUniform):
        return float(np.log(value / low) / np.log(high / low))
    return float((value - low) / (high - low))


def _row(cell: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{html.escape(text)}</{cell}>' for text in texts)}</tr>"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()

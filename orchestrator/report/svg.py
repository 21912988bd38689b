"""matplotlib figures as SVG that takes its colours and fonts from the page.

A figure is drawn in stand-in colours, one for each role; in the SVG they become CSS variables,
so that the same figure is right in light, in dark and in print.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = {
    "text": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "surface": "#040404",
    "control": "#050505",
    "teacher": "#060606",
    "ensemble": "#070707",
    "members": "#080808",
    "averaged": "#090909",
}
"""Role -> stand-in, which the SVG has as `var(--<role>)`."""

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": COLOURS["text"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["text"],
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": COLOURS["grid"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def styled(chart: Callable[P, R]) -> Callable[P, R]:
    """Draw in the report's style, and leave matplotlib's own settings as they were."""

    @wraps(chart)
    def draw(*arguments: P.args, **named: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return chart(*arguments, **named)

    return draw


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no display; inches."""
    return Figure(figsize=(width, height), layout="constrained")


def draw_history(
    axes: Axes, history: Sequence[Mapping[str, float]], key: str, scale: float = 1, **style: Any
) -> None:
    """A value over epochs, as a line; of one record a point, since no line would be seen."""
    epochs, values = zip(*((record["epoch"], scale * record[key]) for record in history), strict=True)
    axes.plot(epochs, values, marker="." if len(history) == 1 else None, **style)


def over_epochs(axes: Axes) -> None:
    """Name the horizontal axis, and divide it into whole epochs."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """A figure that was drawn with `STYLE` and `COLOURS` as an `<svg>` element for a page that holds several.

    `name` is unique on the page and begins every id; `title` says what it is and `description` what it shows,
    in words, for screen readers.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    view_box = re.search(r'viewBox="[^"]+"', svg)
    assert view_box is not None  # matplotlib always writes one
    opening = (
        f'<svg class="chart" {view_box[0]} role="img" aria-labelledby="{name}-title" '
        f'aria-describedby="{name}-desc">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    return opening + svg[svg.index(">") + 1 :]

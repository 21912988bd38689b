"""The report's section on the search that found the settings, if there was one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.pipeline.gain import gained
from orchestrator.pipeline.manifest import read_record
from orchestrator.pipeline.manifest_content import ManifestContent, Searched
from orchestrator.pipeline.progress import duration
from orchestrator.pipeline.summary import compact
from orchestrator.report.svg import COLOURS, draw_history, new_figure, over_epochs, styled, to_svg
from orchestrator.storage import Storage
from orchestrator.tuning.domains import Choice, Domain, LogUniform
from orchestrator.tuning.request import AskedSearch
from orchestrator.tuning.search_budget import SEARCH, SearchRecord
from orchestrator.tuning.space import Space
from orchestrator.tuning.table import STATES, ended, seed_scores, short, short_values, sources
from orchestrator.tuning.trial_store import TrialRecord, TrialStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

APART = 0.02
"""Height by which lines of equal choices are moved apart."""
FEWEST_FOR_IMPORTANCE = 10


@dataclass(frozen=True)
class Search:
    """What a search left: how it was asked for, its trials, and its outcome."""

    request: AskedSearch
    trials: Sequence[TrialRecord]
    """Best first; those without a result last."""
    outputs: Searched
    """Of the manifest's stage `search`."""
    gained: str = ""
    """`orchestrator.pipeline.gain.gained`."""

    @property
    def space(self) -> Space:
        """What was searched."""
        return self.request.space

    @property
    def scored(self) -> list[TrialRecord]:
        """The trials that reported, best first."""
        return [record for record in self.trials if record.history]

    @property
    def winner(self) -> TrialRecord:
        """The trial whose settings the student was trained with."""
        return next(record for record in self.trials if record.name == self.outputs.best.trial)


def load_search(storage: Storage, manifest: ManifestContent) -> Search | None:
    """The search of a run; None where nothing was searched. Raises `StorageError`."""
    found = read_record(storage, SEARCH, SearchRecord)
    if found is None or not manifest.done("search"):
        return None
    trials = sorted(TrialStore(storage).trials.values(), key=lambda r: (*(-q for q in r.quality), r.number))
    return Search(found.request, trials, manifest.searched, gained(manifest))


@dataclass(frozen=True)
class SearchSection:
    """The section: its sentence, its figures, and the trials as rows of text."""

    headline: str
    keys: Mapping[str, str]
    """Of the space -> its domain and the reason for it, in words."""
    rows: list[dict[str, Any]]
    pareto: list[dict[str, str]]
    """Empty where cost was not searched too."""
    trials_chart: str
    curves_chart: str
    importance: Mapping[str, float]


def search_section(search: Search | None) -> SearchSection | None:
    """The section of a run; None where nothing was searched."""
    if search is None:
        return None
    space = search.space
    domains = space.domains.items()
    return SearchSection(
        headline=_headline(search),
        keys={key: f"{domain.describe()}. {domain.reason}" for key, domain in domains},
        rows=[_row(search, record) for record in search.trials],
        pareto=[
            {
                "trial": item.trial,
                "cost": short(item.cost),
                "score": f"{100 * item.score:.2f}",
                "values": short_values(item.values),
            }
            for item in (search.outputs.pareto if search.request.searcher == "pareto" else ())
        ],
        trials_chart=trials_chart(search),
        curves_chart=curves_chart(search),
        importance=importance(space, search.scored),
    )


def _headline(search: Search) -> str:
    best, request = search.winner, search.request
    seeds = request.seeds
    of = f"mean validation accuracy over {seeds} seeds" if seeds > 1 else "validation accuracy"
    return (
        f"Of {len(search.trials)} trials ({ended(search.outputs)}) {best.name} was best: {of} "
        f"{100 * best.quality[0]:.2f} % with {short_values(best.values)}. "
        f"Searcher {request.searcher}, scheduler {request.scheduler}, "
        f"{duration(search.outputs.seconds)}; the test images were not used. {search.gained}".rstrip()
    )


def _row(search: Search, record: TrialRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "best": record is search.winner,
        "state": STATES[record.status],
        "note": record.error or sources(record),
        "epochs": record.epochs,
        "accuracy": f"{100 * record.quality[0]:.2f}" if record.history else "–",
        "seeds": ", ".join(f"{100 * score:.2f}" for score in seed_scores(record)),
        "nll": f"{-record.quality[1]:.4f}" if record.history else "–",
        "time": duration(record.seconds) if record.seconds or record.reused else "–",
        "cost": compact(record.cost) if record.cost is not None else "–",
        "values": [short(record.values[key]) for key in search.space.domains],
    }


@styled
def trials_chart(search: Search) -> str:
    """Parallel coordinates: an axis for each key, then the validation accuracy; a line for each trial."""
    trials = search.scored
    figure = new_figure(9.6, 3.6)
    axes = figure.subplots()
    _draw_trials(axes, search)
    handles, labels = axes.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=3)
    spoken = "; ".join(
        f"{record.name}: {100 * record.quality[0]:.2f} % with {short_values(record.values)}"
        for record in trials[:5]
    )
    return to_svg(figure, "trials", "Trials of the search", f"The best: {spoken}.")


@styled
def curves_chart(search: Search) -> str:
    """Validation accuracy of every trial over its epochs; lines that end early were stopped."""
    figure = new_figure(9.6, 3.1)
    axes = figure.subplots()
    for record in search.scored:
        draw_history(axes, record.history, "averaged/accuracy", 100, **_style(search, record))
    axes.set_title("Validation accuracy of the averaged student, %")
    over_epochs(axes)
    stopped = sum(record.status == "pruned" for record in search.trials)
    spoken = f"Stopped before their end: {stopped} of {len(search.trials)}."
    return to_svg(figure, "search-curves", "Trials over their epochs", spoken)


def _draw_trials(axes: "Axes", search: Search) -> None:
    """A vertical line for each key and for the accuracy; a line for each trial, the best on top."""
    space, trials = search.space, search.scored
    keys = [*space.domains, "validation accuracy"]
    scores = [100 * record.quality[0] for record in trials]
    low, high = min(scores), max(scores)
    ranked = sorted(zip(trials, scores, strict=True), key=lambda pair: pair[1])
    for rank, (record, score) in enumerate(ranked):
        # Lines of equal choices lie beside each other.
        apart = APART * (0.5 - rank / max(1, len(trials) - 1))
        heights = [_position(domain, record.values[key]) + apart for key, domain in space.domains.items()]
        heights.append((score - low) / (high - low) if high > low else 0.5)
        axes.plot(heights, **_style(search, record))
    for index in range(len(keys)):
        axes.axvline(index, color=COLOURS["muted"], linewidth=0.8)
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    for index, domain in enumerate(space.domains.values()):
        for value in domain.points(3):
            axes.annotate(short(value), (index, _position(domain, value)), (-4, 0), ha="right", **beside)
    for height, score in ((0.0, low), (1.0, high)):
        axes.annotate(f"{score:.2f} %", (len(space.domains), height), (4, 0), **beside)
    axes.set_xticks(range(len(keys)), [key.replace(".", ".\n") for key in keys])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.12)


def importance(space: Space, trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Share of each key in what a random forest learns of the validation accuracy; sums to 1.

    Permutation importance on the trials themselves: it ranks, it does not predict. Trials that were stopped
    are left out: their accuracy is that of another budget. Empty with fewer than ten others, or when all are
    equally good.
    """
    trials = [
        record
        for record in trials
        if record.status == "completed"
        and all(domain.has(record.values[key]) for key, domain in space.domains.items())
    ]
    scores = np.array([record.quality[0] for record in trials])
    if len(trials) < FEWEST_FOR_IMPORTANCE or np.ptp(scores) == 0:
        return {}
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    points = np.array(
        [[_position(domain, r.values[key]) for key, domain in space.domains.items()] for r in trials]
    )
    forest = RandomForestRegressor(n_estimators=100, random_state=0).fit(points, scores)
    found = permutation_importance(forest, points, scores, n_repeats=20, random_state=0)
    positive = np.clip(found.importances_mean, 0, None)
    total = positive.sum()
    if total == 0:
        return {}
    shares = (positive / total).tolist()
    return dict(sorted(zip(space.domains, shares, strict=True), key=lambda item: -item[1]))


def _position(domain: Domain, value: Any) -> float:
    """Where a value lies in its domain, from 0 to 1; NaN: outside, as the experiment's own may be."""
    if not domain.has(value):
        return float("nan")
    if isinstance(domain, Choice):
        return domain.choice.index(value) / max(1, len(domain.choice) - 1)
    low, high = domain.ends
    if isinstance(domain, LogUniform):
        return float(np.log(value / low) / np.log(high / low))
    return float((value - low) / (high - low))


def _style(search: Search, record: TrialRecord) -> dict[str, Any]:
    if record is search.winner:
        return {"color": COLOURS["averaged"], "linewidth": 2.4, "zorder": 3, "label": "the best"}
    if record.status == "completed":
        return {"color": COLOURS["ensemble"], "linewidth": 1.2, "zorder": 2, "label": "trained to the end"}
    return {
        "color": COLOURS["teacher"],
        "linewidth": 0.9,
        "linestyle": "--",
        "zorder": 1,
        "label": "stopped early",
    }

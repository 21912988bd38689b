"""Trials as a person reads them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.pipeline.gain import gained
from orchestrator.pipeline.manifest_content import ManifestContent, Searched
from orchestrator.pipeline.progress import View, duration
from orchestrator.pipeline.summary import compact
from orchestrator.tuning.trial_store import TrialRecord, TrialStatus, best_trial

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 20
"""Of the live table: the trials in progress and the best of the others."""

LEGEND = (
    "passes: what was spent on a trial, in forward passes for each training image and seed (a forward of one "
    "network is 1, its backward 2); time: of its training and validation. Neither counts reused networks."
)
"""Of `trials_table`."""

STATES: dict[TrialStatus, str] = {
    "proposed": "running",
    "completed": "finished",
    "pruned": "stopped",
    "failed": "failed",
    "out_of_time": "out of time",
}
"""What a person calls a trial's status."""


def standing(trials: Mapping[int, TrialRecord], total: int) -> str:
    """How many of `total` trials are in which state, and the best so far, in a line."""
    states = [STATES[record.status] for record in trials.values()] + ["waiting"] * (total - len(trials))
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("waiting", *STATES.values()) if state in states
    )
    best = best_trial(trials)
    return counts + (f"; best so far {best.name}, {100 * best.quality[0]:.2f} %" if best is not None else "")


def trials_table(
    trials: Mapping[int, TrialRecord], rows: int | None = ROWS, view: View | None = None
) -> "Table":
    """State, epochs, validation accuracy, time, cost and values: trials in progress, then best first.

    `view` knows how far those in progress are, and how long they will still take. What `LEGEND` says of time
    and passes holds of what is over. With several seeds the accuracy is their mean, and each seed's is beside
    it.
    """
    from rich.table import Table

    best = best_trial(trials)
    keys = list(next(iter(trials.values())).values) if trials else []
    seeds = any(seed_scores(record) for record in trials.values())
    made = Table(box=None, pad_edge=False, header_style="bold")
    accuracy = ("mean acc.", "of seeds") if seeds else ("val. acc.",)
    for heading in ("trial", "state", "epoch", *accuracy, "time", "passes", *_names(trials)):
        made.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
    shown = sorted(trials.values(), key=lambda r: (r.ended, tuple(-q for q in r.quality), r.number))
    for record in shown[:rows]:
        of_seeds = ", ".join(f"{100 * score:.2f}" for score in seed_scores(record))
        run = view.runs.get(record.name) if view is not None and not record.ended else None
        time = duration(record.seconds) if record.seconds or record.reused else ""
        made.add_row(
            record.name,
            STATES[record.status] + (", reused" if record.reused else ""),
            str(record.epochs) if run is None else f"{record.epochs}/{run.epochs}",
            f"{100 * record.quality[0]:.2f} %" if record.history else "",
            *([of_seeds] if seeds else []),
            time if run is None or view is None else view.left(record.name),
            compact(record.cost or 0) if record.cost or record.reused else "",
            *(short(record.values.get(key)) for key in keys),
            style="bold" if record is best else "dim" if record.status in ("pruned", "failed") else None,
        )
    if rows is not None and len(shown) > rows:
        made.add_row(f"… {len(shown) - rows} more")
    return made


def spare_columns(trials: Mapping[int, TrialRecord]) -> list[str]:
    """Headings that a narrow terminal can do without, the first of them first; searched keys come last."""
    return ["state", "passes", "epoch", "time", *reversed(_names(trials))]


def _names(trials: Mapping[int, TrialRecord]) -> list[str]:
    """Headings of the searched keys."""
    return [key.split(".")[-1] for key in next(iter(trials.values())).values] if trials else []


def sources(record: TrialRecord) -> str:
    """Whose networks a trial took, in words; empty: it trained its own."""
    if not record.reused_from:
        return ""
    some = "" if record.reused else f"{len(record.reused_from)} of {record.seeds} networks "
    return f"{some}reused, trained by {', '.join(dict.fromkeys(record.reused_from))}"


def in_words(record: TrialRecord) -> str:
    """How a trial has ended."""
    return ", ".join(filter(None, (sources(record), f"{STATES[record.status]} after epoch {record.epochs}")))


def reused(trials: Mapping[int, TrialRecord]) -> list[str]:
    """Which trials took networks that were there before, a line each."""
    return [f"{record.name}: {sources(record)}" for record in trials.values() if record.reused_from]


def failures(trials: Mapping[int, TrialRecord]) -> list[str]:
    """Why trials have failed, a line each."""
    return [f"{record.name} failed: {record.error}" for record in trials.values() if record.error]


def outcome(manifest: ManifestContent) -> list[str]:
    """What the search of a run found and gained, a sentence each; none where nothing was searched."""
    if not manifest.done("search"):
        return []
    found = manifest.searched
    best = f"{found.best.trial}, {100 * found.best.score:.2f} %, {short_values(found.best.values)}"
    return [f"Trials: {ended(found)}", f"Best on validation: {best}", *filter(None, [gained(manifest)])]


def ended(found: Searched) -> str:
    """How many trials of a search ended how, in words."""
    return ", ".join(
        f"{found.trials[status]} {state}" for status, state in STATES.items() if status in found.trials
    )


def seed_scores(record: TrialRecord) -> list[float]:
    """The best validation accuracy so far of each seed's network; none if there is one seed."""
    scores: list[float] = []
    while (score := record.last.get(f"seeds/{len(scores)}/score")) is not None:
        scores.append(score)
    return scores


def short(value: Any) -> str:
    """A value in a few characters.

    >>> short(0.123456), short("ods"), short(4)
    ('0.123', 'ods', '4')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def short_values(values: Mapping[str, Any]) -> str:
    """Values with their keys, in a line."""
    return ", ".join(f"{key}={short(value)}" for key, value in values.items())

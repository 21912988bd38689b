"""Trials as a person reads them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.tuning.trial_store import TrialRecord, best_trial

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 20
"""Of the live table: the trials in progress and the best of the others."""

WIDEST_REASON = 70
"""Characters of a failure in the table; MLflow and `trial.json` have all of it."""


def trials_table(trials: Mapping[int, TrialRecord], rows: int | None = ROWS) -> "Table":
    """Number, state, epochs, validation accuracy and values: trials in progress, then best first.

    With several seeds the accuracy is their mean, and each seed's is beside it. Why a trial failed
    is in the last column, if any has.
    """
    from rich.table import Table

    best = best_trial(trials)
    keys = list(next(iter(trials.values())).values) if trials else []
    seeds = any(seed_scores(record) for record in trials.values())
    failed = any(record.error for record in trials.values())
    made = Table(box=None, pad_edge=False, header_style="bold")
    accuracy = ("mean acc.", "of seeds") if seeds else ("val. acc.",)
    for heading in ("trial", "state", "epoch", *accuracy, *(key.split(".")[-1] for key in keys)):
        made.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
    if failed:
        made.add_column("why", overflow="ellipsis", no_wrap=True, max_width=WIDEST_REASON)
    shown = sorted(trials.values(), key=lambda r: (r.ended, tuple(-q for q in r.quality), r.number))
    for record in shown[:rows]:
        of_seeds = ", ".join(f"{100 * score:.2f}" for score in seed_scores(record))
        made.add_row(
            record.name,
            "training" if record.status == "proposed" else record.status,
            str(record.epochs),
            f"{100 * record.quality[0]:.2f} %" if record.history else "",
            *([of_seeds] if seeds else []),
            *(short(record.values.get(key)) for key in keys),
            *([record.error or ""] if failed else []),
            style="bold" if record is best else "dim" if record.status in ("pruned", "failed") else None,
        )
    if rows is not None and len(shown) > rows:
        made.add_row(f"… {len(shown) - rows} more")
    return made


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

"""Trials as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.tuning.ledger import TrialRecord, best_trial

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 20
"""Of the live table: the trials in progress and the best of the others."""


def trials_table(trials: Mapping[int, TrialRecord], rows: int | None = ROWS) -> Table:
    """Number, state, epochs, validation accuracy and values: trials in progress, then best first."""
    from rich.table import Table

    best = best_trial(trials)
    keys = list(next(iter(trials.values())).values) if trials else []
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "state", "epoch", "val. acc.", *(key.split(".")[-1] for key in keys)):
        made.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
    shown = sorted(trials.values(), key=lambda r: (r.ended, tuple(-q for q in r.quality), r.number))
    for record in shown[:rows]:
        made.add_row(
            record.name,
            "training" if record.status == "proposed" else record.status,
            str(record.epochs),
            f"{100 * record.quality[0]:.2f} %" if record.history else "",
            *(short(record.values.get(key)) for key in keys),
            style="bold" if record is best else "dim" if record.status in ("pruned", "failed") else None,
        )
    if rows is not None and len(shown) > rows:
        made.add_row(f"… {len(shown) - rows} more")
    return made


def short(value: Any) -> str:
    """A value in a few characters.

    >>> short(0.123456), short("ods"), short(4)
    ('0.123', 'ods', '4')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def short_values(values: Mapping[str, Any]) -> str:
    """Values with their keys, in a line."""
    return ", ".join(f"{key}={short(value)}" for key, value in values.items())

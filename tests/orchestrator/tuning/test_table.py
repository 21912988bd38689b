"""The table of trials says how good each is, over how many seeds, and why one failed."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from orchestrator.tuning.table import trials_table
from orchestrator.tuning.trial_store import TrialRecord


def record(number: int, score: float, **changes: Any) -> TrialRecord:
    extra = changes.pop("extra", {})
    history = [{"epoch": 3.0, "score": score, "score_nll": 1.0, **extra}]
    fields: dict[str, Any] = {"status": "completed", "history": history}
    return TrialRecord(number=number, values={"distillation.temperature": 2.0}, **(fields | changes))


def shown(*records: TrialRecord) -> list[str]:
    console = Console(width=160, highlight=False)
    with console.capture() as capture:
        console.print(trials_table({r.number: r for r in records}))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_best_comes_first_and_one_seed_has_no_column() -> None:
    heading, first, second = shown(record(0, 0.8), record(1, 0.9))
    assert heading.split() == ["trial", "state", "epoch", "val.", "acc.", "temperature"]
    assert first.split() == ["trial-0001", "completed", "3", "90.00", "%", "2"]
    assert second.startswith("trial-0000")


def test_of_several_seeds_the_mean_and_each_are_shown() -> None:
    seeds = {"seeds/0/score": 0.7, "seeds/1/score": 0.9}
    heading, first = shown(record(0, 0.8, extra=seeds))
    assert "mean acc." in heading
    assert "80.00 %  70.00, 90.00" in first


def test_why_a_trial_failed_is_in_its_row() -> None:
    dead = record(1, 0.0, status="failed", history=[], error="The actor died unexpectedly")
    heading, _, second = shown(record(0, 0.8), dead)
    assert heading.endswith("why")
    assert second.endswith("The actor died unexpectedly")
    assert "failed" in second


def test_a_trial_without_a_record_has_no_accuracy() -> None:
    _, first = shown(record(0, 0.0, status="proposed", history=[]))
    assert first.split() == ["trial-0000", "training", "0", "2"]

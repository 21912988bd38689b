"""The table of trials says how good each is, over how many seeds, and why one failed."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from orchestrator.tuning.table import LEGEND, failures, reused, standing, trials_table
from orchestrator.tuning.trial_store import TrialRecord


def record(number: int, score: float, **changes: Any) -> TrialRecord:
    extra = changes.pop("extra", {})
    history = [{"epoch": 3.0, "score": score, "score_nll": 1.0, **extra}]
    fields: dict[str, Any] = {"status": "completed", "history": history, "seconds": 75.0, "full_cost": 4400.0}
    fields |= {"planned_epochs": 3}
    return TrialRecord(number=number, values={"distillation.temperature": 2.0}, **(fields | changes))


def shown(*records: TrialRecord) -> list[str]:
    console = Console(width=160, highlight=False)
    with console.capture() as capture:
        console.print(trials_table({r.number: r for r in records}))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_best_comes_first_and_one_seed_has_no_column() -> None:
    heading, first, second = shown(record(0, 0.8), record(1, 0.9))
    assert heading.split() == ["trial", "state", "epoch", "val.", "acc.", "time", "passes", "temperature"]
    assert first.split() == [
        "trial-0001",
        "finished",
        "3",
        "90.00",
        "%",
        "1",
        "min",
        "15",
        "s",
        "4.4",
        "k",
        "2",
    ]
    assert second.startswith("trial-0000")


def test_of_several_seeds_the_mean_and_each_are_shown() -> None:
    seeds = {"seeds/0/score": 0.7, "seeds/1/score": 0.9}
    heading, first = shown(record(0, 0.8, extra=seeds))
    assert "mean acc." in heading
    assert "80.00 %  70.00, 90.00" in first


def test_why_a_trial_failed_is_said_below_the_table() -> None:
    dead = record(1, 0.0, status="failed", history=[], error="The actor died unexpectedly")
    assert failures({0: record(0, 0.8), 1: dead}) == ["trial-0001 failed: The actor died unexpectedly"]
    _, _, second = shown(record(0, 0.8), dead)
    assert second.split()[:2] == ["trial-0001", "failed"]


def test_whose_networks_a_trial_took_is_said_in_its_state_and_below_the_table() -> None:
    taken = record(0, 0.8, seconds=0.0, reused_from=("digits-1",))
    _, first = shown(taken)
    cells = "trial-0000 finished, reused 3 80.00 % 0 s 0 2"
    assert first.split() == cells.split()
    assert reused({0: taken, 1: record(1, 0.9)}) == ["trial-0000: reused, trained by digits-1"]


def test_a_line_says_how_many_trials_are_in_which_state_and_which_is_the_best() -> None:
    trials = {0: record(0, 0.8), 1: record(1, 0.9, status="pruned"), 2: record(2, 0.0, status="proposed")}
    assert (
        standing(trials, 5) == "2 waiting, 1 running, 1 finished, 1 stopped; best so far trial-0000, 80.00 %"
    )
    assert standing({}, 4) == "4 waiting"


def test_a_trial_without_a_record_has_no_accuracy() -> None:
    _, first = shown(record(0, 0.0, status="proposed", history=[], seconds=0.0))
    assert first.split() == ["trial-0000", "running", "0", "2"]


def test_passes_are_those_that_were_spent_and_a_line_says_what_they_are() -> None:
    heading, *rows = shown(record(0, 0.8), record(1, 0.7, status="pruned", planned_epochs=6))
    at = heading.index("passes")
    assert [row[at : at + len("passes")].strip() for row in rows] == ["4.4 k", "2.2 k"]
    assert LEGEND.startswith("passes: what was spent on a trial, in forward passes")

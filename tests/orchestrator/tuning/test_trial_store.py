"""The trial store: what is stored of trials is what the next start finds, and which of them is best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ExperimentError
from orchestrator.storage import Storage, open_storage
from orchestrator.tuning.trial_store import TrialRecord, TrialStore, best_trial, find_trial, pareto_set


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def record(number: int, score: float, **changes: Any) -> TrialRecord:
    history = [{"epoch": 1.0, "score": score, "score_nll": changes.pop("nll", 1.0), "finished": 1.0}]
    fields: dict[str, Any] = {"status": "completed", "history": history, "cost": 10.0}
    return TrialRecord(number=number, values={"a": number}, **(fields | changes))


def by_number(*records: TrialRecord) -> dict[int, TrialRecord]:
    return {r.number: r for r in records}


def test_another_start_finds_every_trial_as_it_was(storage: Storage) -> None:
    trials = TrialStore(storage)
    first = trials.add(0, {"distillation.temperature": 2.5, "student.members": 3}, 12.0)
    trials.add(1, {"distillation.temperature": 4.0, "student.members": 2}, 8.0)
    first = trials.change(first, history=({"epoch": 1.0, "score": 0.5, "score_nll": 1.5},))
    first = trials.end(first, "failed", error="TrainingDiverged: student")
    assert TrialStore(storage).trials == trials.trials
    assert find_trial(storage, 0) == first
    assert [TrialStore(storage).trials[n].ended for n in (0, 1)] == [True, False]
    assert find_trial(storage, 7) is None


def test_what_an_earlier_version_left_is_read_and_of_a_newer_one_is_refused(storage: Storage) -> None:
    first = record(0, 0.5).model_dump(exclude={"format"}) | {"clones": []}
    storage.write("trials/trial-0000/trial.json", json.dumps(first).encode())
    assert TrialStore(storage).trials == {0: record(0, 0.5)}
    storage.write("trials/trial-0000/trial.json", json.dumps(first | {"format": 99}).encode())
    with pytest.raises(ExperimentError, match="of a newer version of ekd"):
        TrialStore(storage)


def test_checkpoints_go_with_a_trial_that_nothing_continues(storage: Storage) -> None:
    trials = TrialStore(storage)
    for number, status in enumerate(("pruned", "failed", "completed", "out_of_time")):
        made = trials.add(number, {}, 1.0)
        storage.write(f"trials/{made.name}/seed-0/epoch-00001.json", b"{}")
        trials.end(made, status)  # type: ignore[arg-type]
    left = {key.split("/")[1] for key in storage.list("trials") if "seed-0" in key}
    assert left == {"trial-0002", "trial-0003"}


def test_the_best_is_the_most_accurate_then_the_surest_then_the_first() -> None:
    assert best_trial(by_number(record(0, 0.8), record(1, 0.9), record(2, 0.85))).number == 1  # type: ignore[union-attr]
    assert best_trial(by_number(record(0, 0.9, nll=0.5), record(1, 0.9, nll=0.4))).number == 1  # type: ignore[union-attr]
    assert best_trial(by_number(record(0, 0.9), record(1, 0.9))).number == 0  # type: ignore[union-attr]
    assert best_trial(by_number(TrialRecord(number=0, values={}))) is None


def test_the_pareto_set_holds_what_nothing_beats_in_both() -> None:
    trials = by_number(
        record(0, 0.80, cost=1.0),
        record(1, 0.90, cost=3.0),
        record(2, 0.85, cost=4.0),  # dearer and worse than 1
        record(3, 0.90, cost=5.0),  # dearer than 1 and no better
        record(4, 0.95, cost=9.0),
        record(5, 0.99, cost=0.5, status="pruned"),  # not comparable: it was not trained in full
        record(6, 0.70, cost=1.0),  # as dear as 0 and worse
    )
    assert [r.number for r in pareto_set(trials)] == [0, 1, 4]


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"planned_epochs": 24}, 264.0),
        ({"planned_epochs": 24, "reused_from": ("digits-1",)}, 0.0),
        ({"planned_epochs": 24, "reused_from": ("digits-1",), "seeds": 4}, 0.75 * 264.0),
        ({}, None),  # of an earlier version
        ({"status": "completed"}, 528.0),
    ],
)
def test_a_trial_has_cost_what_its_epochs_did_that_it_trained_itself(
    fields: dict[str, Any], cost: float | None
) -> None:
    stopped = {"number": 1, "values": {}, "cost": 528.0, "status": "pruned", "history": [{"epoch": 12.0}]}
    found = TrialRecord.parse(stopped | fields, "a test")
    assert (found.cost, found.full_cost) == (cost, 528.0)
    assert TrialRecord.parse(found.model_dump(mode="json"), "a test") == found

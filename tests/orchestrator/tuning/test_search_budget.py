"""What a run has searched is what it goes on to search, and its time is counted over all starts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import ExperimentError
from orchestrator.storage import Storage, open_storage
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.search_budget import SEARCH, SearchBudget
from orchestrator.tuning.space import load_space


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path))


def request(**options: Any) -> SearchRequest:
    return SearchRequest.model_validate({"space": load_space("student"), **options})


def test_seconds_of_all_starts_count_against_the_budget(storage, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    first = SearchBudget(storage, request(time_budget_s=50))
    assert first.left() == 50
    clock.now += 30
    first.save()
    clock.now = 5.0  # another machine's
    assert SearchBudget(storage, request(time_budget_s=50)).left() == 20
    assert SearchBudget(storage, request(time_budget_s=20)).left() == 0
    assert SearchBudget(storage, request()).left() is None


@pytest.mark.parametrize("changes", [{"trials": 3}, {"searcher": "optuna"}, {"seeds": 2}])
def test_a_run_does_not_go_on_to_search_otherwise(storage, changes):
    SearchBudget(storage, request())
    with pytest.raises(ExperimentError, match="use the same options to continue it, or another --run-id"):
        SearchBudget(storage, request(**changes))


def test_a_run_that_searched_with_a_scheduler_that_is_no_more_is_refused(storage):
    SearchBudget(storage, request())
    content = json.loads(storage.read(SEARCH))
    content["request"]["scheduler"] = "pbt"
    storage.write(SEARCH, json.dumps(content).encode())
    with pytest.raises(ExperimentError, match="this run searches otherwise"):
        SearchBudget(storage, request())

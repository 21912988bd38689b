"""The stage `search`: when another driver has taken the run, and when a kill has cut it off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from training_runs import a_description

from orchestrator.errors import continuable
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.lease import Lease, TakenOver
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.pipeline.stages.search import search
from orchestrator.planning.capacity import Capacity, Node
from orchestrator.storage import LocalStorage
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.space import load_space
from orchestrator.tuning.trial_reporter import TrialReporter

REQUEST = SearchRequest(space=load_space("student"), trials=2)
VALUES = {"distillation.temperature": 4.0, "student.members": 4, "perturbation.strength": 1.0}


class Deaf:
    """A tracker that keeps nothing."""

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *args, **kwargs: "run"


class Hearing:
    """A watch that hears nothing."""

    def __init__(self, settings: Any) -> None:
        self.closed = False

    def reporter(self) -> TrialReporter:
        return TrialReporter()

    def look(self, trials: list[Any]) -> list[Any]:
        return []

    def take_reason(self, trial: str) -> None:
        return None

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    """Of a run whose teachers are there, with nothing behind `ray.put`."""
    monkeypatch.setattr("ray.put", lambda value: None)
    monkeypatch.setattr("ekd_train.persistence.networks.Networks.load", lambda *args: None)
    monkeypatch.setattr("orchestrator.pipeline.stages.search.network_arrays", lambda networks: {})
    monkeypatch.setattr("orchestrator.pipeline.stages.search.TrialWatch", Hearing)
    checked = SimpleNamespace(
        experiment=load_experiment("digits"),
        storage=LocalStorage(tmp_path),
        run_id="mine",
        description=a_description(),
        dataset=SimpleNamespace(without_test_images=lambda: SimpleNamespace(packed=None)),
    )
    view = View()
    view.console.quiet = True
    lease = Lease(checked.storage, lease_s=float("inf"))
    made = RunContext(cast(Any, checked), cast(Any, None), view, tmp_path, lease, REQUEST)
    made.tracker_, made._capacity = cast(Any, Deaf()), Capacity((Node(4),), "a test")
    return made


def stored(context: RunContext) -> dict[str, bytes]:
    storage = context.checked.storage
    return {key: storage.read(key) for key in storage.list("")}


def lose(context: RunContext) -> None:
    assert context.lease is not None
    context.lease.lost = "process 7 on another host has taken this run over"


def end(callback: Any, number: int) -> None:
    """Trial `number` is proposed, and ends at once."""
    callback.store.add(number, VALUES, 1.0)
    trial = SimpleNamespace(config={"number": number}, last_result={"failure": "a test"})
    callback.on_trial_complete(0, [], trial)


def test_a_driver_that_lost_its_run_writes_no_more_trials(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, bytes] = {}

    def run_search(asked: Any, callback: Any, at_once: int, left: Any) -> None:
        callback.on_step_begin(0, [])
        end(callback, 0)
        lose(context)
        before.update(stored(context))
        callback.on_step_begin(1, [])
        end(callback, 1)

    monkeypatch.setattr("orchestrator.pipeline.stages.search.run_search", run_search)
    with pytest.raises(TakenOver, match="process 7 on another host has taken this run over"):
        search(context)
    assert "trials/trial-0000/trial.json" in before
    assert stored(context) == before


def test_a_driver_that_lost_its_run_finishes_no_search(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, bytes] = {}

    def run_search(asked: Any, callback: Any, at_once: int, left: Any) -> None:
        end(callback, 0)
        lose(context)
        before.update(stored(context))

    monkeypatch.setattr("orchestrator.pipeline.stages.search.run_search", run_search)
    with pytest.raises(TakenOver, match="has taken this run over"):
        search(context)
    assert stored(context) == before


@pytest.mark.parametrize(("begun", "ended"), [((0, 1), "out_of_time"), ((1,), "waiting")])
def test_how_the_first_trial_ended_is_noted_where_time_was_short(
    context: RunContext, monkeypatch: pytest.MonkeyPatch, begun: tuple[int, ...], ended: str
) -> None:
    def run_search(asked: Any, callback: Any, at_once: int, left: Any) -> None:
        for number in begun:
            record = callback.store.add(number, VALUES, 1.0)
            callback.store.change(record, history=({"epoch": 4.0, "score": 0.5 + number, "score_nll": 1.0},))

    monkeypatch.setattr("orchestrator.pipeline.stages.search.run_search", run_search)
    found = search(context)
    assert (found.best.trial, found.baseline, found.baseline_ended) == ("trial-0001", None, ended)


def test_a_kill_gives_back_no_more_of_the_time_budget_than_the_trials_that_had_not_ended(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    kept: list[float] = []

    def run_search(asked: Any, callback: Any, at_once: int, left: Any) -> None:
        clock.now += 30
        end(callback, 0)
        kept.append(json.loads(context.checked.storage.read("search.json"))["seconds"])

    monkeypatch.setattr("orchestrator.pipeline.stages.search.run_search", run_search)
    with (
        pytest.raises(RunFailed, match=r"no trial has a result: .*; search otherwise") as failed,
        continuable(),
    ):
        search(context)
    assert kept == [30.0]
    assert failed.value.hint is None  # the same command would find the same trials, ended


def test_a_log_says_that_trial_processes_start_between_the_plan_and_their_first_word(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(context.view, "say", lambda text, style=None: said.append(text))

    def run_search(asked: Any, callback: Any, at_once: int, left: Any) -> None:
        said.append("Ray Tune starts")
        end(callback, 0)

    monkeypatch.setattr("orchestrator.pipeline.stages.search.run_search", run_search)
    with pytest.raises(RunFailed):
        search(context)
    plan, starting, begun = said[: said.index("Ray Tune starts") + 1][-3:]
    assert plan.startswith("2 trials, ")
    assert (starting, begun) == ("starting trial processes ...", "Ray Tune starts")

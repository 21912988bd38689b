"""What the driver writes down of trials, as Tune tells it: trial store and MLflow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ekd_train.persistence.checkpoint import save_record
from ekd_train.persistence.records import NetworkRecord
from orchestrator.pipeline.estimate import Training
from orchestrator.pipeline.progress import View
from orchestrator.runtime.event import Advanced, Warned
from orchestrator.storage import open_storage
from orchestrator.tracking import Tracker
from orchestrator.tuning.callback import SearchCallback
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.searchers import OptunaSearcher
from orchestrator.tuning.space import Space
from orchestrator.tuning.table import in_words
from orchestrator.tuning.trial_store import TrialStore

SPACE = Space(
    name="test",
    description="a test",
    domains={"perturbation.temperature": Choice(choice=(None, 2.0), reason="a test")},
)


@pytest.fixture
def callback(tmp_path: Path, tracker: Tracker) -> SearchCallback:
    view = View()
    view.console.quiet = True
    trials = TrialStore(open_storage(str(tmp_path / "runs")))
    return SearchCallback(trials, OptunaSearcher(SPACE, 0, "random"), tracker, view, 2)


def told(number: int, **changes: Any) -> Any:
    """A trial as Tune's callbacks see it."""
    fields = {"last_result": {}, "error_file": None} | changes
    return SimpleNamespace(config={"number": number}, **fields)


def mlflow_run(callback: SearchCallback, number: int) -> Any:
    assert callback.tracker is not None
    callback.tracker.flush()
    return callback.tracker.client.get_run(callback.tracker.child(f"trial-{number:04d}"))


def test_a_trial_that_fails_is_failed_in_mlflow_with_its_reason(
    callback: SearchCallback, tmp_path: Path
) -> None:
    for number in range(2):
        callback.store.add(number, {"perturbation.temperature": 2.0}, 1.0)
        callback.on_trial_start(0, [], told(number))
    diverged = "TrainingDiverged: student: the loss became nan at step 7"
    callback.on_trial_complete(1, [], told(0, last_result={"failure": diverged}))
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at x)\nOSError: gone\n")
    callback.on_trial_error(2, [], told(1, error_file=str(tmp_path / "error.txt")))
    for number, reason in enumerate((diverged, "OSError: gone")):
        run = mlflow_run(callback, number)
        assert run.info.status == "FAILED"
        assert run.data.tags["ekd.trial.status"] == "failed"
        assert run.data.tags["ekd.trial.error"] == reason == callback.store.trials[number].error


def test_what_the_last_trials_leave_idle_is_offered_to_others(callback: SearchCallback) -> None:
    """Two trials at a time, of two: as soon as one of them has ended, and not while others wait."""
    offered: list[int] = []
    callback.at_once, callback.while_idle = 2, lambda: offered.append(len(offered))

    def trials(*finished: bool) -> list[Any]:
        return [SimpleNamespace(is_finished=lambda ended=ended: ended) for ended in finished]

    for step in (trials(), trials(False), trials(True), trials(False, False)):
        callback.on_step_begin(0, step)
    assert not offered
    callback.on_step_begin(0, trials(True, False))
    assert offered == [0]


def test_in_a_log_a_search_says_now_and_then_how_it_stands(
    callback: SearchCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr(callback.view, "say", said.append)
    callback._said = callback.view.opened = clock.now
    callback.expected = lambda record: Training(record.name, 10, 1.0, trial=True)
    callback.store.add(0, {"perturbation.temperature": 2.0}, 1.0)
    callback.on_trial_start(0, [], told(0))
    for epoch in (1.0, 2.0, 3.0, 4.0):
        clock.now += 6
        record = {"epoch": epoch, "score": 0.5, "score_nll": 1.0, "seconds": 6 * epoch}
        callback.on_trial_result(0, [], told(0), {"record": record})
    assert len(said) == 2  # after 12 s and after 24
    assert "1 waiting, 1 running; best so far trial-0000, 50.00 %" in said[0]
    assert "trial-0000 epoch 2/10, 48 s left" in said[0]  # 6 s an epoch
    assert said[0].endswith("all training: 48 s left")


def test_a_trial_that_trains_nothing_says_whose_network_it_took_and_costs_no_time(
    callback: SearchCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr(callback.view, "say", said.append)
    callback.view.run_id = "search"
    for number, by, seconds in ((0, "digits-1/student", 0.0), (1, "search/trial-0001", 7.0)):
        callback.store.add(number, {"perturbation.temperature": 2.0}, 1.0)
        callback.on_trial_start(0, [], told(number))
        network = NetworkRecord(identity="i", trained_by=by).model_dump()
        save_record(callback.store.storage, f"trials/trial-000{number}/seed-0/network.json", network)
        clock.now += 60  # its process starts
        record = {"epoch": 4.0, "score": 0.5, "score_nll": 1.0, "finished": 1.0, "seconds": seconds}
        callback.on_trial_result(0, [], told(number), {"record": record})
        callback.on_trial_complete(1, [], told(number))
    assert said[0].startswith("trial-0000: reused, trained by digits-1/student, finished after epoch 4, ")
    assert said[1].startswith("trial-0001: finished after epoch 4, ")
    trials = TrialStore(callback.store.storage).trials  # as they are stored
    assert [(t.seconds, t.reused_from) for t in trials.values()] == [(0.0, ("digits-1/student",)), (7.0, ())]
    assert all("seconds" not in epoch for trial in trials.values() for epoch in trial.history)
    first, second = (mlflow_run(callback, number).data for number in range(2))
    assert (first.metrics["seconds"], second.metrics["seconds"]) == (0.0, 7.0)
    assert first.tags["ekd.reused_from"] == "digits-1/student"
    assert "ekd.reused_from" not in second.tags


def test_a_trial_of_several_seeds_may_have_trained_some_of_its_networks(callback: SearchCallback) -> None:
    record = callback.store.add(0, {"perturbation.temperature": 2.0}, 1.0, seeds=3)
    callback.on_trial_start(0, [], told(0))
    for seed, by in enumerate(("digits-1", "digits-1", "/trial-0000")):
        network = NetworkRecord(identity="i", trained_by=by).model_dump()
        save_record(callback.store.storage, f"trials/trial-0000/seed-{seed}/network.json", network)
    callback.on_trial_complete(1, [], told(0))
    record = callback.store.trials[0]
    assert (record.reused_from, record.reused) == (("digits-1", "digits-1"), False)
    assert in_words(record) == "2 of 3 networks reused, trained by digits-1, stopped after epoch 0"


def test_epochs_that_were_stored_say_nothing_of_a_trials_pace(
    callback: SearchCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    callback.expected = lambda record: Training(record.name, 10, 1.0, trial=True)
    callback.store.add(0, {"perturbation.temperature": 2.0}, 1.0)
    callback.on_trial_start(0, [], told(0))
    left = []
    for after_s, epoch, seconds in ((60, 1, 20.0), (0.1, 2, 20.0), (0.1, 3, 20.0), (10, 4, 30.0)):
        clock.now += after_s
        record = {"epoch": float(epoch), "score": 0.5, "score_nll": 1.0, "seconds": seconds}
        callback.on_trial_result(0, [], told(0), {"record": record})
        left.append(callback.view.seconds_left())
    assert left[2] is None
    assert left[3] == pytest.approx(60)


class Watched:
    """A watch that has ended the process of trial 0, and has heard what the test says."""

    def __init__(self, *events: Any) -> None:
        self.events = list(events)
        self.ended_for = {"trial-0000": "trial-0000: nothing heard of its process"}

    def look(self, trials: list[Any]) -> list[Any]:
        return self.events

    def take_reason(self, trial: str) -> str | None:
        return self.ended_for.pop(trial, None)


def test_what_trials_tell_is_shown_and_names_them(
    callback: SearchCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(callback.view, "warn", warned.append)
    callback.expected = lambda record: Training(record.name, 10, 1.0, trial=True)
    callback.store.add(0, {"perturbation.temperature": 2.0}, 1.0)
    callback.on_trial_start(0, [], told(0))
    callback.watch = Watched(  # type: ignore[assignment]
        Advanced(run="trial-0000", epoch=3, step=25, steps=100, loss=0.5, images_per_s=1.0),
        Warned(run="trial-0000", message="the gap has opened"),
        Warned(run="trial-0000", message="trial-0000: nothing heard of worker 1"),
        Warned(run="", message="the queue was lost"),
    )
    callback.on_step_begin(0, [])
    assert warned == [
        "trial-0000: the gap has opened",
        "trial-0000: nothing heard of worker 1",
        "the queue was lost",
    ]
    run = callback.view.runs["trial-0000"]
    assert (run.status, run.epoch, run.step, run.steps) == ("training", 3, 25, 100)


def test_of_a_trial_whose_process_the_watch_has_ended_the_reason_is_that_and_is_said_once(
    callback: SearchCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(callback.view, "warn", warned.append)
    for number in range(2):
        callback.store.add(number, {"perturbation.temperature": 2.0}, 1.0)
    callback.watch = Watched()  # type: ignore[assignment]
    callback.on_trial_recover(0, [], told(0))
    assert warned == []
    callback.on_trial_recover(0, [], told(0))  # this time it died by itself
    assert warned == ["trial-0000: unknown reason; it continues from its last checkpoint"]
    callback.watch.ended_for["trial-0001"] = "nothing heard of it; it was started again 2 times in vain"
    callback.on_trial_error(1, [], told(1))
    assert callback.store.trials[1].error == ("nothing heard of it; it was started again 2 times in vain")

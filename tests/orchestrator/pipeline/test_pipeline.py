"""How a run ends, and what it says then: with stages, tracker and view that are stand-ins."""

import json
import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from training_runs import a_description

from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline import pipeline
from orchestrator.pipeline.lease import Lease, LeaseHeld, TakenOver
from orchestrator.pipeline.lease_holder import LEASE
from orchestrator.pipeline.manifest import MANIFEST, Manifest
from orchestrator.pipeline.manifest_content import Registered
from orchestrator.pipeline.order import SEARCH, Stage
from orchestrator.pipeline.run_context import RunFailed
from orchestrator.pipeline.stages.register import register
from orchestrator.planning.preflight import Checked
from orchestrator.runtime import ray_session
from orchestrator.runtime.address import local_capacity
from orchestrator.runtime.event import Failed
from orchestrator.runtime.worker_pool import WorkerPool
from orchestrator.storage import StorageError
from orchestrator.storage.local import LocalStorage
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.search_budget import SearchBudget
from orchestrator.tuning.space import load_space


class FakeTracker:
    run_id = "the-parent"

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.shown: list[str] = []

    def flush(self, *, force: bool) -> bool:
        return True

    def finish(self, name: str, status: str) -> None:
        self.shown.append(f"{name}: {status}")

    def show(self, states: dict[str, object]) -> None:
        self.shown += states

    def close(self, status: str) -> bool:
        self.closed.append(status)
        return True


@pytest.fixture
def tracker(monkeypatch) -> FakeTracker:
    made = FakeTracker()
    monkeypatch.setattr(pipeline.Tracker, "open", lambda *args, **kwargs: made)
    return made


@pytest.fixture
def checked(tmp_path) -> Any:
    return Checked(
        experiment=load_experiment("digits"),
        run_id="mine",
        storage=LocalStorage(tmp_path),
        tracking_uri="sqlite:///unused",
        description=a_description(fingerprint="f" * 64),
        dataset=SimpleNamespace(findings=()),
        capacity=local_capacity(),
    )


def manifest(checked) -> Manifest:
    return Manifest.open(checked.storage, checked.experiment, "mine", "f" * 64, "code")


def run(checked, work):
    """A run of these stages, a function each."""
    return pipeline.run(checked, stages=[Stage(name) for name in work], work=work)


def failing(error: BaseException):
    def stage(context):
        raise error

    return stage


def test_stages_run_in_order_once_and_are_skipped_afterwards(checked, tracker):
    seen: list[str] = []

    def stage(name):
        return lambda context: seen.append(name) or {"made": name}

    work = {name: stage(name) for name in ("one", "two")}
    run(checked, work)
    assert (seen, tracker.closed) == (["one", "two"], ["FINISHED"])
    assert manifest(checked).content.status == "done"
    assert manifest(checked).content.stages["two"].outputs == {"made": "two"}
    assert tracker.shown == ["parent"]
    run(checked, work)
    assert seen == ["one", "two"]
    assert tracker.closed == ["FINISHED"]


def test_a_run_that_was_cut_off_between_its_last_stage_and_its_end_is_ended(checked, tracker, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "show", failing(StorageError("s3://b", "is away", "wait")))
        with pytest.raises(StorageError):
            run(checked, {"one": lambda context: {}})
    run(checked, {"one": failing(AssertionError())})
    assert tracker.closed == ["FAILED", "FINISHED"]
    assert manifest(checked).content.status == "done"


def test_stages_are_done_again_where_that_is_asked_for(checked, tracker):
    seen: list[str] = []
    work = {"one": lambda context: {}, "two": lambda context: seen.append("two") or {}}
    run(checked, work)
    pipeline.run(checked, stages=[Stage(name) for name in work], work=work, again=["two"])
    assert seen == ["two", "two"]


def test_what_mlflow_lacks_at_the_end_is_said_with_the_command_that_writes_it(
    checked, tracker, monkeypatch, capsys
):
    monkeypatch.setattr(tracker, "close", lambda status: False)
    run(checked, {"one": lambda context: {}})
    assert "`ekd register mine --storage ekd-runs` writes it" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("asked", [True, False], ids=["ekd tune", "ekd register"])
def test_after_a_search_the_run_is_about_the_best_trials_experiment(checked, tracker, asked):
    seen = []

    def look(context):
        distillation = context.checked.experiment.distillation
        seen.append((distillation.temperature, context.manifest.content.result_hash))
        return {}

    request = SearchRequest(space=load_space("student"))
    best_trial = {"trial": "trial-0001", "values": {"distillation.temperature": 2.5}, "score": 0.9}
    found = {"best": best_trial}
    SearchBudget(checked.storage, request).save()
    work = {"before": look, SEARCH: lambda context: found, "after": failing(RunFailed("cut off"))}
    stages = [Stage(name) for name in work]
    with pytest.raises(RunFailed, match="cut off"):
        pipeline.run(checked, request, stages=stages, work=work)
    again = [stage for stage in stages if asked or stage.name != SEARCH]
    pipeline.run(checked, request if asked else None, stages=again, work={**work, "after": look})
    best = load_experiment("digits", ["distillation.temperature=2.5"])
    assert seen == [(4.0, checked.experiment.result_hash()), (2.5, best.result_hash())]


def test_an_unexpected_exception_is_one_line_with_the_log_that_has_the_traceback(checked, tracker, tmp_path):
    with pytest.raises(RunFailed) as failed:
        run(checked, {"one": failing(KeyError("boom"))})
    log = tmp_path / "logs" / "ray.log"
    assert str(failed.value) == f"one: KeyError: 'boom'; the traceback is in {log}"
    assert "Traceback (most recent call last)" in log.read_text()
    assert "KeyError: 'boom'" in log.read_text()
    assert tracker.closed == ["FAILED"]
    assert manifest(checked).content.status == "failed"
    assert json.loads(checked.storage.read(LEASE))["released"]


@pytest.mark.parametrize("error", [RunFailed("loss"), StorageError("s3://b", "is away", "wait")])
def test_an_error_that_explains_itself_is_passed_on(checked, tracker, error):
    with pytest.raises(type(error)) as failed:
        run(checked, {"one": failing(error)})
    assert failed.value is error
    assert tracker.closed == ["FAILED"]


def test_a_tracker_that_cannot_be_opened_fails_the_run(checked, monkeypatch):
    def refuse(*args, **kwargs):
        raise KeyError("schema")

    monkeypatch.setattr(pipeline.Tracker, "open", refuse)
    with pytest.raises(RunFailed, match="KeyError: 'schema'"):
        run(checked, {"one": lambda context: {}})
    assert manifest(checked).content.status == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_the_run(checked, tracker, number):
    def stage(context):
        os.kill(os.getpid(), number)
        threading.Event().wait(300)

    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # these tests themselves may run under nohup
    try:
        with pytest.raises(KeyboardInterrupt):
            run(checked, {"one": stage})
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)
    assert tracker.closed == ["KILLED"]
    assert manifest(checked).content.status == "interrupted"
    assert json.loads(checked.storage.read(LEASE))["released"]


def test_a_run_under_nohup_outlives_its_terminal(checked, tracker):
    def stage(context):
        os.kill(os.getpid(), signal.SIGHUP)
        return {}

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(checked, {"one": stage})
    finally:
        signal.signal(signal.SIGHUP, before)
    assert tracker.closed == ["FINISHED"]


def test_a_failure_at_the_end_does_not_hide_why_the_run_ended(checked, tracker, monkeypatch, capsys):
    def refuse(status):
        raise OSError("the disk is full")

    monkeypatch.setattr(tracker, "close", refuse)
    with pytest.raises(RunFailed, match=r"^the reason$"):
        run(checked, {"one": failing(RunFailed("the reason"))})
    assert "WARNING: the disk is full" in capsys.readouterr().err
    assert manifest(checked).content.status == "failed"


def test_a_driver_that_was_taken_over_stops_and_writes_nothing_more(checked, tracker):
    def taken_over(context):
        context.lease.lost = "process 7 on elsewhere has taken this run over"
        return {}

    def never(context):
        raise AssertionError

    with pytest.raises(TakenOver, match="process 7 on elsewhere has taken this run over; this driver stops"):
        run(checked, {"one": taken_over, "two": never})
    assert tracker.closed == []
    assert manifest(checked).content.status == "running"


def hopeless(error: str):
    """A stage whose worker has given up for this reason."""
    failed = Failed(run="student", failure="hopeless", out_of_memory=False, error=error, message="why")

    def stage(context):
        context._handle(failed)

    return stage


def test_where_the_runs_folder_was_deleted_nothing_is_said_to_be_kept(checked, tracker, capsys):
    """A worker is the first to see it, and says so by what it raises."""

    def deleted(context):
        checked.storage.delete(LEASE)
        hopeless("TakenOver")(context)

    with pytest.raises(TakenOver, match="was deleted or damaged, perhaps with all of") as error:
        run(checked, {"one": deleted})
    assert error.value.hint is None
    assert tracker.closed == []
    assert "MLflow" not in capsys.readouterr().err


def test_of_what_would_fail_again_it_is_not_said_that_the_same_command_continues(checked, tracker):
    with pytest.raises(RunFailed, match="student: TrainingDiverged: why") as error:
        run(checked, {"one": hopeless("TrainingDiverged")})
    assert error.value.hint is None


def test_a_run_that_another_driver_has_is_not_begun(checked, tracker):
    with Lease(checked.storage).acquire(), pytest.raises(LeaseHeld):
        run(checked, {"one": failing(AssertionError())})
    assert not checked.storage.exists(MANIFEST)


REGISTERED = Registered(name="m", version="1", aliases=(), promotion="", uri="models:/m/1")


class FakeWorkers:
    """A worker group that ends, or fails to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.ended = error, threading.Event()

    def close(self) -> bool:
        self.ended.set()
        if self.error is not None:
            raise self.error
        return True

    close_meanwhile = WorkerPool.close_meanwhile


def registered_after(workers, monkeypatch, checked):
    """A run whose MLflow answers only when its workers have been let go."""

    def train(context):
        context._workers, context._capacity = workers, local_capacity()
        return {}

    def away(context):
        assert workers.ended.wait(300)
        return REGISTERED

    monkeypatch.setattr("orchestrator.pipeline.stages.register._register", away)
    return run(checked, {"train": train, "register": register})


def test_workers_are_let_go_before_a_tracking_server_that_is_away_is_waited_for(
    checked, tracker, monkeypatch
):
    left = []
    monkeypatch.setattr(ray_session, "stop_ray", lambda: left.append(threading.current_thread()))
    done = registered_after(FakeWorkers(), monkeypatch, checked)
    assert done.content.registered == REGISTERED
    assert left == [threading.main_thread()]  # Ray may end the process if another thread leaves it


def test_workers_that_do_not_end_are_a_warning_and_the_student_is_registered(
    checked, tracker, monkeypatch, capfd
):
    monkeypatch.setattr(ray_session, "stop_ray", lambda: pytest.fail("workers are still there"))
    done = registered_after(FakeWorkers(RuntimeError("the head is gone")), monkeypatch, checked)
    assert done.content.registered == REGISTERED
    assert "the head is gone" in capfd.readouterr().err

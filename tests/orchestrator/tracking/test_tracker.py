"""What MLflow has of a run: once, whatever was cut off, away or refused in between."""

import math
import urllib.parse
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.tracking import PARENT, Tracker, TrackingError
from orchestrator.tracking import runs as runs_module
from orchestrator.tracking import tracker as tracker_module
from orchestrator.tracking.connection import connect
from orchestrator.tracking.run_state import RunState, flattened
from orchestrator.tracking.runs import Runs


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def state(**fields) -> RunState:
    made = RunState(**{key: value for key, value in fields.items() if key not in ("tags", "metrics")})
    made.add_tags(fields.get("tags", {}))
    for step, values in fields.get("metrics", {}).items():
        made.add_metrics(values, step)
    return made


def epochs(*steps, status=None) -> RunState:
    return state(metrics={step: {"loss": float(step)} for step in steps}, status=status)


def history(tracker, name, metric="loss"):
    points = tracker.client.get_metric_history(tracker.child(name), metric)
    return sorted((point.step, point.value) for point in points)


def run_of(tracker, name=PARENT):
    return tracker.client.get_run(tracker.child(name))


def runs_of(tracker):
    wanted = f"tags.`ekd.run_id` = '{tracker.ekd_run_id}'"
    return tracker.client.search_runs([tracker.experiment_id], wanted)


def artifact_folder(tracker, name=PARENT) -> Path:
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(run_of(tracker, name).info.artifact_uri).path))


WRITES = ("create_run", "update_run", "log_batch", "log_inputs", "set_terminated")
CALLS = (*WRITES, "search_runs", "get_metric_history")


def unplug(patch, client):
    """Every call of the client fails."""

    def fail(*_, **__):
        raise ConnectionError("unplugged")

    for name in CALLS:
        patch.setattr(client, name, fail)
    patch.setattr(runs_module, "upload", fail)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    original = Tracker.__init__
    monkeypatch.setattr(
        Tracker, "__init__", lambda self, uri, client, runs: original(self, uri, client, runs, clock)
    )
    return clock


def test_a_new_run_is_running_and_named_as_the_ekd_run(tracker):
    run = run_of(tracker)
    assert (run.info.status, run.info.run_name) == ("RUNNING", tracker.ekd_run_id)
    assert run.info.run_id == tracker.run_id


def test_a_run_is_found_again_with_its_children_and_goes_on(open_tracker):
    first = open_tracker()
    children = [first.child("teacher-0"), first.child("student")]
    first.close("FAILED")
    again = open_tracker()
    assert again.run_id == first.run_id
    assert [again.child("teacher-0"), again.child("student")] == children
    assert run_of(again).info.status == "RUNNING"


def test_another_ekd_run_has_another_run(open_tracker):
    runs = [open_tracker(), open_tracker(ekd_run_id="some-other's"), open_tracker(instance="2")]
    assert len({tracker.run_id for tracker in runs}) == 3


def test_more_runs_than_a_page_has_are_all_found(open_tracker, monkeypatch):
    first = open_tracker()
    names = [f"trial-{number}" for number in range(5)]
    children = [first.child(name) for name in names]
    again = open_tracker()
    search = again.client.search_runs
    monkeypatch.setattr(
        again.client, "search_runs", lambda *args, **named: search(*args, **named, max_results=2)
    )
    again._runs.forget()
    assert [again.child(name) for name in names] == children


def test_a_deleted_run_is_restored_and_a_deleted_experiment_too(open_tracker):
    first = open_tracker()
    child = first.child("student")
    first.client.delete_run(child)
    first.client.delete_run(first.run_id)
    first.client.delete_experiment(first.experiment_id)
    said: list[str] = []
    again = open_tracker(warn=said.append)
    assert (again.run_id, again.child("student")) == (first.run_id, child)
    assert "the MLflow experiment digits was deleted by somebody; it is restored" in said[0]
    assert {run_of(again, name).info.lifecycle_stage for name in (PARENT, "student")} == {"active"}
    again.client.delete_run(child)
    open_tracker(warn=said.append).child("student")
    assert said[-1].startswith("the MLflow run student was deleted by somebody; it is restored")


def test_a_child_names_its_parent(tracker):
    child = run_of(tracker, "student")
    assert child.data.tags["mlflow.parentRunId"] == tracker.run_id
    assert child.info.run_name == "student"


def test_params_are_flat_and_cut_to_what_mlflow_takes(tracker):
    settings = {"student": {"members": 4}, "long": "x" * 7000, "odd(key)": None}
    tracker.show({PARENT: state(params=flattened(settings))})
    params = run_of(tracker).data.params
    assert params["student.members"] == "4"
    assert params["odd_key_"] == "null"
    assert len(params["long"]) == 6000
    assert params["long"].endswith("[7000 characters]")


def test_a_param_changed_before_a_restart_is_kept_beside_the_first(open_tracker):
    open_tracker().show({PARENT: state(params={"epochs": "10", "seed": "1"})})
    again = open_tracker()
    again.show({PARENT: state(params={"epochs": "20", "seed": "1", "new": "3"})})
    data = run_of(again).data
    assert data.params == {"epochs": "10", "seed": "1", "new": "3"}
    assert {k: v for k, v in data.tags.items() if "changed" in k} == {"ekd.changed_param.epochs": "20"}
    assert not again.waiting


def test_more_params_tags_and_values_than_a_call_takes_arrive_all(tracker):
    many = {f"p{number}": str(number) for number in range(250)}
    tracker.show(
        {PARENT: state(params=many, tags=many, metrics={0: {f"m{number}": 1.0 for number in range(1500)}})}
    )
    data = run_of(tracker).data
    assert (data.params, data.tags | many) == (many, data.tags)
    assert len(data.metrics) == 1500


def test_metrics_arrive_with_their_steps_and_non_finite_values(tracker):
    for step, value in enumerate((0.5, 0.25, math.nan)):
        tracker.log_metrics("student", {"loss/train": value}, step)
    tracker.flush()
    points = history(tracker, "student", "loss/train")
    assert points[:2] == [(0, 0.5), (1, 0.25)]
    assert math.isnan(points[2][1])


def test_values_wait_a_little_and_go_together(open_tracker, clock, monkeypatch):
    tracker = open_tracker()
    calls = []
    write = tracker.client.log_batch
    monkeypatch.setattr(
        tracker.client, "log_batch", lambda *args, **named: calls.append(named) or write(*args, **named)
    )
    for step in range(3):
        tracker.log_metrics("student", {"loss": float(step)}, step)
    assert calls == []
    clock.now_s = tracker_module.FLUSH_EVERY_S
    tracker.log_metrics("student", {"loss": 3.0}, 3)
    assert [len(call["metrics"]) for call in calls] == [4]
    tracker.log_metrics("student", {f"m{n}": 1.0 for n in range(tracker_module.FLUSH_VALUES)}, 4)
    assert len(calls) == 2


def test_steps_that_a_restart_repeats_are_not_written_twice(open_tracker):
    first = open_tracker()
    for step in range(4):
        first.log_metrics("student", {"loss": float(step)}, step)
    first.flush()
    again = open_tracker()
    for step in range(2, 6):
        again.log_metrics("student", {"loss": float(step)}, step)
    again.flush()
    assert history(again, "student") == [(step, float(step)) for step in range(6)]


def test_the_same_states_written_again_change_nothing(open_tracker):
    states = {
        PARENT: state(params={"seed": "1"}, tags={"who": "test"}, metrics={0: {"accuracy": 0.5}}),
        "teacher-0": epochs(1, 2, status="FINISHED"),
        "student": epochs(1),
    }
    open_tracker().show(states)
    states["student"] = epochs(1, 2, status="FINISHED")
    for _ in range(2):
        again = open_tracker()
        again.show(states)
        assert again.close("FINISHED")
        assert history(again, "teacher-0") == history(again, "student") == [(1, 1.0), (2, 2.0)]
        assert history(again, PARENT, "accuracy") == [(0, 0.5)]
        assert Counter(run.info.run_name for run in runs_of(again)) == dict.fromkeys(
            (again.ekd_run_id, "teacher-0", "student"), 1
        )


def test_a_child_lasts_as_long_as_its_training_did_whenever_it_is_written(tracker):
    tracker.show({"control": state(status="FINISHED", began=1_000.0, ended=1_030.5)})
    info = run_of(tracker, "control").info
    assert (info.start_time, info.end_time) == (1_000_000, 1_030_500)


def test_a_finished_child_is_given_the_metrics_that_it_has_not(open_tracker):
    open_tracker().show({"student": epochs(1, status="FINISHED")})
    measured = state(metrics={0: {"accuracy": 0.5}, 1: {"loss": 1.0}}, status="FINISHED")
    tracker = open_tracker()
    for _ in range(2):
        tracker.show({"student": measured})
    assert history(tracker, "student") == [(1, 1.0)]
    assert history(tracker, "student", "accuracy") == [(0, 0.5)]


def test_of_a_finished_child_nothing_is_looked_up(open_tracker, monkeypatch):
    open_tracker().show({"student": epochs(1, 2, status="FINISHED")})
    again = open_tracker()
    monkeypatch.setattr(again.client, "get_metric_history", None)
    again.show({"student": epochs(1, 2, status="FINISHED")})
    assert not again.waiting


def test_what_cannot_be_written_waits_and_is_written_once(open_tracker, clock, monkeypatch):
    tracker = open_tracker()
    with monkeypatch.context() as patch:
        unplug(patch, tracker.client)
        tracker.log_metrics("student", {"loss": 1.0}, 1)
        tracker.show({PARENT: state(tags={"late": "yes"}, artifacts={"notes/late.md": "late"})})
        assert not tracker.close("FINISHED")
        with pytest.raises(TrackingError, match="unplugged"):
            tracker.child("student")
    assert tracker.close("FINISHED")
    run = run_of(tracker)
    assert (run.info.status, run.data.tags["late"]) == ("FINISHED", "yes")
    assert history(tracker, "student") == [(1, 1.0)]
    assert (artifact_folder(tracker) / "notes" / "late.md").read_text() == "late"


def test_a_store_that_is_away_is_tried_ever_more_rarely_and_warned_of_once(
    open_tracker, clock, monkeypatch, caplog
):
    tracker = open_tracker()
    tries = []

    def fail(*_, **__):
        tries.append(clock.now_s)
        raise ConnectionError("unplugged")

    monkeypatch.setattr(tracker.client, "log_batch", fail)
    for second in range(600):
        clock.now_s = float(second)
        tracker.log_metrics(PARENT, {"loss": 1.0}, second)
        tracker.flush()
    assert tries == [0, 5, 15, 35, 75, 155, 275, 395, 515]
    assert caplog.text.count("unplugged") == 1


def test_an_artifact_store_that_is_away_holds_up_nothing_else(tracker, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "upload", lambda *_: 1 / 0)
        tracker.show({PARENT: state(artifacts={"a.md": "a"})})
        tracker.show({PARENT: state(tags={"after": "yes"})})
        assert run_of(tracker).data.tags["after"] == "yes"
        assert tracker.waiting
    assert tracker.flush(force=True)
    assert (artifact_folder(tracker) / "a.md").read_text() == "a"


def test_more_than_memory_is_for_is_left_to_the_storage(open_tracker, clock, monkeypatch):
    monkeypatch.setattr(tracker_module, "MOST_WAITING", 5)
    tracker = open_tracker()
    with monkeypatch.context() as patch:
        unplug(patch, tracker.client)
        for step in range(7):
            tracker.log_metrics("student", {"loss": float(step)}, step)
            tracker.flush()
        tracker.finish("student", "FINISHED")
    assert not tracker.close("FINISHED")
    assert run_of(tracker, "student").info.status == "RUNNING"  # FINISHED says that all is there
    tracker.show({"student": epochs(*range(7), status="FINISHED")})  # as from storage
    assert tracker.close("FINISHED")
    assert history(tracker, "student") == [(step, float(step)) for step in range(7)]
    assert run_of(tracker, "student").info.status == "FINISHED"


def test_a_refused_write_holds_up_nothing(tracker, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_inputs", lambda *_: int("no"))
        tracker.show({PARENT: state(datasets={"train": dict.fromkeys(FIELDS, "x")}, tags={"after": "yes"})})
    assert not tracker.waiting
    assert run_of(tracker).data.tags["after"] == "yes"
    assert "refused" in caplog.text


FIELDS = ("name", "digest", "source_type", "source")


def everything(tracker):
    """What a run writes, in pieces as they come."""
    tracker.show(
        {PARENT: state(params={"seed": "1"}, tags={"who": "test"}, artifacts={"experiment.json": "{}"})}
    )
    for step in (1, 2):
        tracker.log_metrics("teacher-0", {"loss": float(step)}, step)
        tracker.flush()
    tracker.show({"teacher-0": epochs(1, 2, status="FINISHED")})
    tracker.log_metrics("student", {"loss": 1.0}, 1)
    tracker.show({"student": epochs(1, 2, 3, status="FINISHED")})
    tracker.show({PARENT: state(metrics={0: {"accuracy": 0.5}}, artifacts={"report.html": "page"})})
    assert tracker.close("FINISHED")


def found(tracker):
    runs = runs_of(tracker)
    return {
        "names": sorted(run.info.run_name.replace(tracker.ekd_run_id, "") for run in runs),
        "statuses": {run.info.status for run in runs},
        "params": run_of(tracker).data.params,
        "who": run_of(tracker).data.tags["who"],
        "metrics": [history(tracker, name) for name in ("teacher-0", "student")],
        "accuracy": history(tracker, PARENT, "accuracy"),
        "artifacts": sorted(
            path.relative_to(artifact_folder(tracker)).as_posix()
            for path in artifact_folder(tracker).rglob("*")
        ),
    }


class Killed(BaseException):
    """Nothing catches it, as nothing catches `kill -9`."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_driver_killed_at_any_write_and_started_again_leaves_the_same(open_tracker, monkeypatch, after):
    whole = open_tracker(ekd_run_id="never killed" + "!" * after)
    everything(whole)
    for number in range(100):
        run_id = f"killed {'after' if after else 'before'} {number}"
        left = [number]
        with monkeypatch.context() as patch:

            def count(name, original, left=left):
                def call(self, *args, **named):
                    left[0] -= 1
                    if left[0] < 0 and not after:
                        raise Killed
                    made = original(self, *args, **named)
                    if left[0] < 0:
                        raise Killed
                    return made

                return call

            from mlflow import MlflowClient

            for name in WRITES:
                patch.setattr(MlflowClient, name, count(name, getattr(MlflowClient, name)))
            patch.setattr(runs_module, "upload", count("upload", runs_module.upload))
            try:
                everything(open_tracker(ekd_run_id=run_id))
                survived = True
            except Killed:
                survived = False
        if survived:
            assert number > 10  # so many writes there were
            break
        again = open_tracker(ekd_run_id=run_id)
        everything(again)
        assert found(again) == found(whole), number


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_last_status_is_that_of_the_parent_and_of_unfinished_children(tracker, status):
    tracker.child("student")
    tracker.finish("teacher-0", "FINISHED")
    assert tracker.close(status)
    assert run_of(tracker).info.status == run_of(tracker, "student").info.status == status
    assert run_of(tracker, "teacher-0").info.status == "FINISHED"


def test_artifacts_lie_beside_the_sqlite_file(tracker, store_uri):
    tracker.show({PARENT: state(artifacts={"summary.json": "{}", "files/named.txt": "a file"})})
    folder = artifact_folder(tracker)
    assert (folder / "summary.json").read_text() == "{}"
    assert (folder / "files" / "named.txt").read_text() == "a file"
    assert folder.is_relative_to(Path(store_uri.removeprefix("sqlite:///")).parent / "mlartifacts")


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError, match=r"cannot open .*file is not a database") as error:
        Tracker.open(f"sqlite:///{tmp_path}/mlflow.db", "e", "n", instance="1")
    assert "\n" not in str(error.value)


def test_a_run_that_vanished_meanwhile_is_made_again(store_uri):
    """As when somebody replaces the database under a running driver."""
    client = connect(store_uri)
    runs = Runs(client, store_uri, "digits", "vanished", "1", "")
    first = runs.open(PARENT)
    client.set_tag(first, "ekd.run_id", "somebody-else")
    runs.forget()
    assert runs.open(PARENT) != first

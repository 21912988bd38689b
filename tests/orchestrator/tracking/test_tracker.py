import json
import math
import urllib.parse
from pathlib import Path

import pytest

from orchestrator.tracking import Tracker, TrackingError


class Unplugged:
    """Stands in for the client's methods while the store is down."""

    def __init__(self, monkeypatch, client):
        for name in ("log_batch", "log_inputs", "log_artifact", "set_terminated", "search_runs"):
            monkeypatch.setattr(client, name, self.fail)
        self.undo = monkeypatch.undo

    def fail(self, *_, **__):
        raise ConnectionError("unplugged")


def history(tracker, run, metric):
    return [(point.step, point.value) for point in tracker.client.get_metric_history(run, metric)]


def run_of(tracker, run=None):
    return tracker.client.get_run(run or tracker.run_id)


def artifact_folder(tracker, run=None) -> Path:
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(run_of(tracker, run).info.artifact_uri).path))


def test_a_new_run_is_running_named_and_tagged(tracker):
    run = run_of(tracker)
    assert (run.info.status, run.info.run_name, run.data.tags["who"]) == ("RUNNING", "the parent", "test")


def test_a_stored_run_id_reopens_that_run(open_tracker):
    first = open_tracker()
    first.close("FAILED")
    again = open_tracker(run_id=first.run_id)
    assert again.run_id == first.run_id
    assert run_of(again).info.status == "RUNNING"


def test_a_run_whose_id_was_not_stored_is_found_again_with_its_children(open_tracker):
    first = open_tracker()
    children = [first.child("teacher-0"), first.child("student")]
    again = open_tracker()
    assert again.run_id == first.run_id
    assert [again.child("teacher-0"), again.child("student")] == children


def test_another_ekd_run_has_another_run(open_tracker):
    runs = [open_tracker(), open_tracker(ekd_run_id="some-other"), open_tracker(instance="2")]
    assert len({tracker.run_id for tracker in runs}) == 3


def test_a_run_id_of_another_store_is_replaced_by_a_new_run(open_tracker):
    assert open_tracker(run_id="0" * 32).run_id != "0" * 32


def test_a_deleted_run_is_restored(open_tracker):
    first = open_tracker()
    first.client.delete_run(first.run_id)
    assert open_tracker(run_id=first.run_id).run_id == first.run_id
    assert run_of(first).info.lifecycle_stage == "active"


def test_a_child_names_its_parent(tracker):
    child = run_of(tracker, tracker.child("student", tags={"role": "student"}))
    assert child.data.tags["mlflow.parentRunId"] == tracker.run_id
    assert (child.info.run_name, child.data.tags["role"]) == ("student", "student")


def test_params_are_flat_and_cut_to_what_mlflow_takes(tracker):
    tracker.log_params(tracker.run_id, {"student": {"members": 4}, "long": "x" * 7000, "odd(key)": None})
    params = run_of(tracker).data.params
    assert params["student.members"] == "4"
    assert params["odd_key_"] == "null"
    assert len(params["long"]) == 6000
    assert params["long"].endswith("[7000 characters]")


def test_a_param_changed_before_a_resume_is_kept_beside_the_first(open_tracker):
    first = open_tracker()
    first.log_params(first.run_id, {"epochs": 10, "seed": 1})
    again = open_tracker()
    again.log_params(again.run_id, {"epochs": 20, "seed": 1, "new": 3})
    data = run_of(again).data
    assert data.params == {"epochs": "10", "seed": "1", "new": "3"}
    assert {k: v for k, v in data.tags.items() if "changed" in k} == {"ekd.changed_param.epochs": "20"}
    assert again.pending == 0


def test_a_hundred_and_more_params_go_in_several_calls(tracker):
    tracker.log_params(tracker.run_id, {f"p{number}": number for number in range(250)})
    assert len(run_of(tracker).data.params) == 250


def test_metrics_arrive_with_their_steps_and_non_finite_values(tracker):
    for step, value in enumerate((0.5, 0.25, math.nan)):
        tracker.log_metrics(tracker.run_id, {"loss/train": value}, step)
    tracker.flush()
    points = history(tracker, tracker.run_id, "loss/train")
    assert points[:2] == [(0, 0.5), (1, 0.25)]
    assert math.isnan(points[2][1])


def test_more_values_than_one_call_takes_arrive_all(tracker):
    tracker.log_metrics(tracker.run_id, {f"m{number}": 1.0 for number in range(1500)}, 0)
    tracker.flush()
    assert len(run_of(tracker).data.metrics) == 1500


def test_steps_that_a_resumed_run_repeats_are_not_logged_twice(open_tracker):
    first = open_tracker()
    for step in range(4):
        first.log_metrics(first.run_id, {"loss": float(step)}, step)
    first.flush()
    again = open_tracker()
    for step in range(2, 6):
        again.log_metrics(again.run_id, {"loss": float(step)}, step)
    again.flush()
    assert history(again, again.run_id, "loss") == [(step, float(step)) for step in range(6)]


def test_what_a_killed_process_had_not_written_is_written_by_the_next(open_tracker):
    killed = open_tracker()
    killed.log_metrics(killed.run_id, {"loss": 1.0}, 1)
    again = open_tracker()
    assert history(again, again.run_id, "loss") == [(1, 1.0)]


def test_failed_writes_wait_and_are_written_once(tracker, monkeypatch):
    with monkeypatch.context() as patch:
        Unplugged(patch, tracker.client)
        tracker.log_metrics(tracker.run_id, {"loss": 1.0}, 1)
        tracker.set_tags(tracker.run_id, {"late": "yes"})
        tracker.log_artifact_text(tracker.run_id, "notes/late.md", "late")
        assert "4 writes did not reach" in tracker.close("FINISHED")  # these and the status
    assert tracker.close("FINISHED") is None
    run = run_of(tracker)
    assert (run.info.status, run.data.tags["late"]) == ("FINISHED", "yes")
    assert history(tracker, tracker.run_id, "loss") == [(1, 1.0)]
    assert (artifact_folder(tracker) / "notes" / "late.md").read_text() == "late"


def test_a_child_begun_while_the_store_is_down_becomes_one_real_run(open_tracker, monkeypatch):
    tracker = open_tracker()
    with monkeypatch.context() as patch:
        Unplugged(patch, tracker.client)
        stand_in = tracker.child("student", tags={"role": "student"})
        tracker.log_metrics(stand_in, {"loss": 1.0}, 1)
        with pytest.raises(TrackingError, match="unplugged"):
            tracker.resolve(stand_in)
    again = open_tracker()
    student = again.child("student", run_id=stand_in)
    assert history(again, student, "loss") == [(1, 1.0)]
    assert run_of(again, student).data.tags["role"] == "student"
    again.log_metrics(stand_in, {"loss": 0.5}, 2)
    again.flush()
    assert history(again, student, "loss") == [(1, 1.0), (2, 0.5)]


def test_a_refused_write_holds_up_nothing(tracker, caplog):
    tracker.set_tags("0" * 32, {"of": "a run that the store does not have"})
    tracker.set_tags(tracker.run_id, {"after": "yes"})
    assert tracker.pending == 0
    assert run_of(tracker).data.tags["after"] == "yes"
    assert "refused" in caplog.text


@pytest.mark.parametrize("path", ["../outside.md", "/absolute.md", "a/../b.md", ""])
def test_an_artifact_has_a_path_inside_its_run(tracker, path):
    with pytest.raises(ValueError, match="inside the run"):
        tracker.log_artifact_text(tracker.run_id, path, "no")


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_last_status_is_told_of_the_parent_and_of_unfinished_children(tracker, status):
    done, left = tracker.child("teacher-0"), tracker.child("student")
    tracker.finish(done, "FINISHED")
    assert tracker.close(status) is None
    assert run_of(tracker).info.status == status
    assert run_of(tracker, done).info.status == "FINISHED"
    assert run_of(tracker, left).info.status == status


def test_artifacts_lie_beside_the_sqlite_file(tracker, store_uri, tmp_path):
    (tmp_path / "local.txt").write_text("a file")
    tracker.log_dict(tracker.run_id, "summary.json", {"accuracy": 0.5})
    tracker.log_file(tracker.run_id, "files/named.txt", tmp_path / "local.txt")
    folder = artifact_folder(tracker)
    assert json.loads((folder / "summary.json").read_text()) == {"accuracy": 0.5}
    assert (folder / "files" / "named.txt").read_text() == "a file"
    assert folder.is_relative_to(Path(store_uri.removeprefix("sqlite:///")).parent / "mlartifacts")
    assert not any((tmp_path / "spool" / "artifacts").iterdir())


def test_a_figure_becomes_an_image(tracker):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([0, 1])
    tracker.log_figure(tracker.run_id, "curves/loss.png", figure)
    assert (artifact_folder(tracker) / "curves" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_data_set_is_an_input_with_digest_shape_and_counts(tracker):
    fingerprint = "ab" * 32
    for _ in range(2):  # a resumed run logs it again
        tracker.log_dataset(
            tracker.run_id,
            "digits",
            "sklearn.datasets.load_digits",
            fingerprint,
            source_type="code",
            image_shape=(1, 8, 8),
            profile={"train": 300},
        )
    (entry,) = run_of(tracker).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", fingerprint[:36])
    assert json.loads(entry.dataset.profile) == {"fingerprint": fingerprint, "train": 300}
    features = json.loads(json.loads(entry.dataset.schema)["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 1, 8, 8]}
    assert entry.tags[0].value == "training"


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError, match=r"cannot open .*file is not a database") as error:
        Tracker.open(
            f"sqlite:///{tmp_path}/mlflow.db",
            "e",
            "n",
            ekd_run_id="x",
            instance="1",
            spool=tmp_path / "spool",
        )
    assert "\n" not in str(error.value)

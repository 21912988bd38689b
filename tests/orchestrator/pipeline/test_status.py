"""Where runs stand, told from storage alone, whatever state it is in."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from training_runs import a_description

from orchestrator.cli.main import main
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.estimate import Training
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.lease_holder import LEASE
from orchestrator.pipeline.manifest import Manifest
from orchestrator.pipeline.status import all_runs, one_run, stored_runs
from orchestrator.pipeline.training_now import Noter
from orchestrator.storage import open_storage


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "runs"))


def begin(storage, run_id="mine", *, stages=(), status="running"):
    """A run as its driver leaves it after `stages`."""
    run = storage.child(run_id)
    manifest = Manifest.open(run, load_experiment("digits"), run_id, "fingerprint", "code")
    for stage in stages:
        manifest.finish(stage, 1.0, {"data": a_description()} if stage == "prepare" else {})
    manifest.set(status=status)
    return run


def shown(capsys, storage, *arguments):
    status = main(["status", *arguments, "--storage", storage.uri()])
    return status, capsys.readouterr()


def test_an_empty_storage_has_no_runs(storage, capsys):
    status, said = shown(capsys, storage)
    assert status == 0
    assert said.out.startswith(f"no runs in {storage.uri()}")


def test_what_is_no_run_is_not_listed(storage):
    storage.write("notes.txt", b"mine")
    storage.write("pictures/cat.png", b"")
    assert stored_runs(storage) == []


def test_a_run_whose_driver_lives_is_running(storage, capsys):
    run = begin(storage, stages=["prepare", "teachers"])
    with Lease(run).acquire():
        _, said = shown(capsys, storage)
        assert "running" in said.out
        assert "teachers" in said.out


def test_a_run_whose_driver_was_killed_is_stopped(storage, capsys):
    run = begin(storage)
    with Lease(run).acquire():
        lease = json.loads(run.read(LEASE))
    run.write(LEASE, json.dumps({**lease, "started": "another process had that id"}).encode())
    assert "stopped" in shown(capsys, storage)[1].out


def test_a_run_of_another_host_whose_lease_has_run_out_is_stopped(storage):
    run = begin(storage)
    run.write(LEASE, json.dumps({"host": "elsewhere", "boot": "b", "pid": 1}).encode())
    hour_ago = time.time() - 3600
    os.utime(run.folder / LEASE, (hour_ago, hour_ago))
    assert "stopped" in one_run(run, "mine")


@pytest.mark.parametrize("wrong_by_s", [-86400, 86400])
def test_a_run_of_a_host_whose_clock_is_wrong_is_running(storage, wrong_by_s):
    run = begin(storage)
    lease = {"host": "elsewhere", "boot": "b", "pid": 1, "since": time.time() + wrong_by_s}
    run.write(LEASE, json.dumps(lease).encode())
    assert "mine: running" in one_run(run, "mine")


def test_the_newest_run_comes_first(storage, capsys):
    begin(storage, "older", status="done")
    begin(storage, "newer", status="failed")
    lines = shown(capsys, storage)[1].out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["newer", "failed"], ["older", "done"]]


def test_without_a_run_id_the_newest_is_shown_whole_below_the_list(storage, capsys):
    begin(storage, "older")
    begin(storage, "newer", stages=["prepare"])
    out = shown(capsys, storage)[1].out
    assert "newer: stopped, experiment digits" in out
    assert "older: " not in out


def test_a_narrow_terminal_loses_columns_but_no_letter_of_a_run_id(storage, capsys, monkeypatch):
    run_id = "digits-" + "0123456789" * 5
    begin(storage, run_id)
    for columns in ("100", "80", "60", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        table = shown(capsys, storage)[1].out.partition("\n\n")[0].partition("\n(a wider")[0].splitlines()
        assert max(map(len, table)) <= int(columns)
        assert "".join(line.split()[0] for line in table[1:]) == run_id


def test_a_report_without_a_run_id_is_of_the_newest(storage, capsys):
    begin(storage, "older")
    begin(storage, "newer")
    assert main(["report", "--storage", storage.uri()]) == 2
    assert "newer: the run is not evaluated yet" in capsys.readouterr().err


def test_a_report_of_no_run_is_refused(storage, capsys):
    assert main(["report", "--storage", storage.uri()]) == 2
    assert "no runs in" in capsys.readouterr().err


def test_one_run_tells_its_checkpoints(storage, capsys):
    run = begin(storage, stages=["prepare"])
    run.write("networks/teacher-0.json", b"{}")
    for epoch in (20, 40):
        run.write(f"checkpoints/teacher-1/epoch-{epoch:05d}.json", b"{}")
    out = shown(capsys, storage, "mine")[1].out
    assert "teacher-0    trained" in out
    assert "teacher-1    checkpoint after epoch 40 of 200" in out
    assert "student      not begun" in out


DAMAGE = {
    "cut": b'{"format": 1, "run_',
    "binary": b"\xff\x00",
    "empty": b"",
    "a list": b"[]",
    "another tool's": b'{"name": "something else"}',
    "a newer version's": b'{"format": 99, "run_id": "a", "experiment": "b", "stages": {}, "updated": 1}',
    "with a stage that made something else": None,
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_manifest_that_cannot_be_read_is_named_and_hides_no_other_run(storage, capsys, content):
    begin(storage, "sound", status="done")
    if content is None:
        manifest = json.loads(begin(storage, "broken", stages=["prepare"]).read("manifest.json"))
        manifest["stages"]["prepare"]["outputs"]["data"]["mean"] = "grey"
        content = json.dumps(manifest).encode()
    storage.write("broken/manifest.json", content)
    status, said = shown(capsys, storage)
    assert status == 0
    assert "sound" in said.out
    assert "unreadable" in said.out
    status, said = shown(capsys, storage, "broken")
    assert status == 2
    assert said.err.count("\n") == 1
    assert "broken/manifest.json" in said.err


def test_a_lost_description_still_shows_the_stages(storage):
    run = begin(storage, stages=["prepare"])
    run.delete("experiment.json")
    assert "prepare" in one_run(run, "mine")


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("run_id", ["nothing", "../x", "a b"])
def test_a_run_that_is_not_there_is_refused(storage, capsys, command, run_id):
    assert main([command, run_id, "--storage", storage.uri()]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unfinished_run_has_no_report(storage, capsys):
    begin(storage, stages=["prepare"])
    assert main(["report", "mine", "--storage", storage.uri()]) == 2
    assert "nothing to report" in capsys.readouterr().err


def test_a_file_is_no_storage(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="is a file"):
        all_runs(open_storage(str(tmp_path / "file")))


def test_a_store_without_credentials_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    arguments = ["status", "--storage", "s3://ekd-nothing/x", "--endpoint-url", "http://127.0.0.1:9"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_network_that_a_pruned_student_starts_from_is_one_of_the_training_runs(storage):
    experiment = load_experiment("digits", ["student.architecture.pruned=0.25"])
    Manifest.open(storage.child("mine"), experiment, "mine", "fingerprint", "code")
    assert "  unpruned     not begun\n  control " in one_run(storage.child("mine"), "mine")
    Manifest.open(storage.child("other"), load_experiment("digits"), "other", "fingerprint", "code")
    assert "unpruned" not in one_run(storage.child("other"), "other")


def test_of_a_run_that_is_running_it_says_what_trains_and_how_long_ago_that_was_heard(storage, capsys):
    run = begin(storage, stages=["prepare"])
    training = Training("teacher-0", epochs=10, effort=1, status="training", epoch=3, step=120, steps=400)
    training.seen = time.monotonic() - 100
    with Lease(run).acquire():
        Noter(run).note({"teacher-0": training, "control": Training("control", epochs=10, effort=1)})
        _, said = shown(capsys, storage, "mine")
    (line,) = [line for line in said.out.splitlines() if "teacher-0" in line]
    assert re.fullmatch(r" *teacher-0 +training: step 120 of 400 in epoch 3 of 10, 1\d\d s ago", line)
    assert re.search(r"control +not begun", said.out)
    _, said = shown(capsys, storage, "mine")  # its driver has ended without a word
    assert "training:" not in said.out


def test_of_a_running_search_it_says_which_trials_train_and_how_far_they_are(storage, capsys):
    run = begin(storage, stages=["prepare", "teachers"])
    training = Training("trial-0007", 9, effort=1, trial=True, status="training", epoch=2, step=15, steps=90)
    training.seen = time.monotonic() - 20
    with Lease(run).acquire():
        Noter(run).note({"trial-0007": training, "trial-0008": Training("trial-0008", 9, effort=1)})
        _, said = shown(capsys, storage, "mine")
    assert re.search(r"^  trial-0007   training: step 15 of 90 in epoch 2 of 9, 2\d s ago$", said.out, re.M)
    assert "trial-0008" not in said.out  # has not begun


def test_what_trains_is_gone_from_storage_once_the_run_has_ended(storage):
    noter = Noter(storage)
    noter.note({})
    assert storage.list() == ["training.json"]
    noter.forget()
    assert storage.list() == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"runs": {"teacher-0": {}}}', b'{"format": 99}'])
def test_what_cannot_be_read_of_what_trains_hides_nothing_else(storage, capsys, content):
    run = begin(storage, stages=["prepare"])
    run.write("training.json", content)
    with Lease(run).acquire():
        status, said = shown(capsys, storage, "mine")
    assert status == 0
    assert "running" in said.out

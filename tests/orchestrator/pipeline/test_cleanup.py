"""`ekd clean` removes what a finished run no longer needs, and nothing else."""

import time

import pytest

from ekd_train.persistence.checkpoint import save_record
from ekd_train.persistence.records import NetworkRecord
from orchestrator.cli.main import main
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.cleanup import (
    clean_run,
    finished_runs,
    remove_packs,
    remove_run,
    stored_experiment,
)
from orchestrator.pipeline.lease_holder import LEASE, this_process
from orchestrator.pipeline.manifest import Manifest
from orchestrator.pipeline.networks import remove_unused
from orchestrator.storage import open_storage

KEPT = [
    "experiment.json",
    "manifest.json",
    "networks/student.json",
    "networks/student.safetensors",
    "summary.json",
]
DROPPED = [
    "checkpoints/student/epoch-00002.json",
    "checkpoints/student/epoch-00002.safetensors",
    "ray/w/marker",
]


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path))


def make(storage, run_id, status, stages=()):
    run = storage.child(run_id)
    for key in (*KEPT, *DROPPED):
        run.write(key, b"{}")
    run.delete("manifest.json")
    manifest = Manifest.open(run, load_experiment("digits"), run_id, "fingerprint", "code")
    for stage in stages:
        manifest.finish(stage, 1.0, {"predictors": {}} if stage == "evaluate" else {})
    manifest.set(status=status)
    return run


def test_a_finished_run_keeps_its_results_and_loses_its_checkpoints(storage):
    run = make(storage, "a", "done")
    assert clean_run(run, "a") == len(DROPPED)
    assert run.list() == KEPT
    assert clean_run(run, "a") == 0


def test_a_run_that_could_continue_keeps_its_checkpoints(storage):
    run = make(storage, "a", "failed")
    with pytest.raises(ExperimentError, match="failed: its checkpoints"):
        clean_run(run, "a")
    assert run.list() == sorted([*KEPT, *DROPPED])


def test_finished_runs_are_found_among_others(storage):
    make(storage, "a", "done")
    make(storage, "b", "failed")
    make(storage, "c", "done").write("manifest.json", b"{")
    assert finished_runs(storage) == ["a"]


def test_a_run_whose_manifest_is_damaged_can_be_removed(storage):
    run = make(storage, "a", "done")
    run.write("manifest.json", b"{")
    remove_run(storage, run, "a", print)
    assert run.list() == []


def test_a_run_is_removed_whole_unless_a_driver_is_at_it(storage):
    run = make(storage, "a", "running")
    # Renewed long ago by the clock of its host, which is slow: what counts is that the driver lives.
    run.write(
        LEASE, this_process("t").model_copy(update={"since": time.time() - 1000}).model_dump_json().encode()
    )
    with pytest.raises(ExperimentError, match="is being run"):
        remove_run(storage, run, "a", print)
    with pytest.raises(ExperimentError, match="is being run"):
        remove_run(storage, run, "a", print, dry=True)
    run.delete(LEASE)
    other = make(storage, "ab", "done")
    remove_run(storage, run, "a", print)
    assert run.list() == []
    assert other.exists("manifest.json")


def refer_to(storage, key, sha256, address):
    """A reference at `key` to a network of these weights, which is found at `address`."""
    record = NetworkRecord(identity="i", trained_by="a", sha256=sha256 * 64).model_dump()
    save_record(storage, key, record)
    save_record(storage, f"networks/{address * 64}.json", record)
    storage.write(f"networks/{sha256 * 64}.safetensors", b"weights")


def test_shared_networks_stay_as_long_as_a_run_or_a_trial_refers_to_them(storage):
    refer_to(storage, "a/networks/teacher-0.json", "1", "a")
    refer_to(storage, "b/networks/teacher-0.json", "1", "a")
    refer_to(storage, "b/trials/trial-0000/seed-0/network.json", "2", "b")
    refer_to(storage, "c/networks/student.json", "3", "c")
    storage.write(f"networks/{'d' * 64}.json", b"cut")
    storage.write("networks/README", b"somebody's")
    storage.delete_prefix("c")
    assert remove_unused(storage) == 1
    weights = [f"networks/{digit * 64}.safetensors" for digit in "12"]
    index = [f"networks/{digit * 64}.json" for digit in "ab"]
    assert storage.list("networks") == sorted([*weights, *index, "networks/README"])
    storage.delete_prefix("a")
    assert remove_unused(storage) == 0
    storage.delete_prefix("b")
    assert remove_unused(storage) == 2
    assert storage.list("networks") == ["networks/README"]


def test_nothing_shared_is_removed_while_a_reference_cannot_be_read(storage):
    refer_to(storage, "a/networks/teacher-0.json", "1", "a")
    storage.write("a/networks/teacher-0.json", b"cut")
    with pytest.raises(ExperimentError, match=r"a/networks/teacher-0\.json: not a complete record"):
        remove_unused(storage)
    assert len(storage.list("networks")) == 2


def test_only_a_measured_run_can_be_registered_later(storage):
    run = make(storage, "a", "failed", stages=["teachers"])
    with pytest.raises(ExperimentError, match="not trained and measured yet"):
        stored_experiment(run, "a")
    run = make(storage, "b", "failed", stages=["teachers", "evaluate"])
    assert stored_experiment(run, "b") == load_experiment("digits")


def test_packed_images_go_unless_a_run_may_still_fetch_them(storage):
    make(storage, "a", "done")
    for key in ("one/index.safetensors", "one/shard-00000.array_record", "two/index.safetensors"):
        storage.write(f"packed/{key}", b"x")
    going_on = make(storage, "b", "running")
    going_on.write(LEASE, this_process("t").model_dump_json().encode())
    assert remove_packs(storage) == 0
    going_on.delete(LEASE)
    newer = make(storage, "c", "done")
    manifest = newer.read("manifest.json")
    newer.write("manifest.json", manifest.replace(b'"format":', b'"format": 99, "was":', 1))
    assert remove_packs(storage) == 0  # nobody here knows whether that goes on
    assert len(storage.list("packed")) == 3
    newer.write("manifest.json", manifest)
    assert remove_packs(storage, dry=True) == 2
    assert len(storage.list("packed")) == 3
    assert remove_packs(storage) == 2
    assert storage.list("packed") == []


@pytest.mark.parametrize("words", [[], ["a", "--everything"]])
def test_a_dry_run_says_what_would_go_and_leaves_it(storage, capsys, words):
    make(storage, "a", "done")
    refer_to(storage, "a/networks/student.json", "2", "b")
    refer_to(storage, "gone/networks/teacher-0.json", "1", "a")
    storage.delete_prefix("gone")
    storage.write("packed/one/index.safetensors", b"x")
    before = storage.list()
    assert main(["clean", *words, "--dry-run", "--storage", storage.uri()]) == 0
    said = capsys.readouterr().out.splitlines()
    assert storage.list() == before
    assert len(said) == 3
    assert all("would be removed" in line for line in said)
    assert main(["clean", *words, "--storage", storage.uri()]) == 0
    assert capsys.readouterr().out.splitlines() == [
        line.replace("would be removed", "removed") for line in said
    ]
    assert storage.list("packed") == []

"""`ekd clean` removes what a finished run no longer needs, and nothing else."""

import time

import pytest
from mlflow import MlflowClient

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


def registered(storage, run_id="a", tracking=None):
    """A run whose student is `models:/m/1`."""
    run = storage.child(run_id)
    experiment = load_experiment("digits", [f"tracking.uri={tracking}"] if tracking else [])
    manifest = Manifest.open(run, experiment, run_id, "fingerprint", "code")
    made = {"name": "m", "version": "1", "aliases": [], "promotion": "", "uri": "models:/m/1"}
    manifest.finish("register", 1.0, made)
    manifest.set(status="done")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda client: client.set_registered_model_alias("m", "champion", "1"), "which is champion"),
        (lambda client: None, "which is in the registry"),
        (lambda client: client.delete_model_version("m", "1"), "which is not in the registry any more"),
    ],
)
def test_a_run_whose_version_is_registered_is_removed_only_if_that_is_said(
    storage, store_uri, capsys, change, said
):
    client = MlflowClient(store_uri, store_uri)
    client.create_registered_model("m")
    try:
        client.create_model_version("m", "nowhere")
        change(client)
        before = client.search_model_versions("name = 'm'")
        registered(storage)
        capsys.readouterr()  # of a store that is made for this test
        words = ["clean", "a", "--everything", "--storage", storage.uri(), "--tracking", store_uri]
        for more in ([], ["--dry-run"]):
            assert main([*words, *more]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"ekd: run a has registered models:/m/1, {said}; ")
            assert "--registered-too" in line
        assert storage.exists("a/manifest.json")
        assert main([*words, "--registered-too"]) == 0
        assert storage.list("a") == []
        assert client.search_model_versions("name = 'm'") == before
    finally:
        client.delete_registered_model("m")


def test_where_the_registry_cannot_be_asked_that_is_said_and_the_run_stays(storage, tmp_path, capsys):
    registered(storage)
    registered(storage, "b", tracking="https://mlflow.example.org")
    for run_id, said in (("a", "there is no registry here"), ("b", "a stored address is used if you say so")):
        assert main(["clean", run_id, "--everything", "--storage", storage.uri()]) == 2
        assert f"models:/m/1, of which the registry cannot be asked ({'' if run_id == 'b' else tmp_path}" in (
            line := capsys.readouterr().err
        )
        assert said in line
        assert storage.exists(f"{run_id}/manifest.json")


def test_only_a_run_that_is_removed_whole_can_be_removed_though_it_is_registered(storage, capsys):
    registered(storage)
    assert main(["clean", "a", "--registered-too", "--storage", storage.uri()]) == 2
    assert "--registered-too is of --everything" in capsys.readouterr().err
    assert main(["clean", "a", "--storage", storage.uri()]) == 0

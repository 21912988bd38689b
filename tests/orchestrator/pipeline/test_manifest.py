import json

import pytest
from training_runs import a_description

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.manifest import (
    EXPERIMENT,
    MANIFEST,
    Manifest,
    check_continuable,
    id_for_images,
    read_run,
)
from orchestrator.pipeline.manifest_content import Registered, TrainedNetwork
from orchestrator.pipeline.summary import summarise
from orchestrator.storage import StorageError
from orchestrator.storage.local import LocalStorage

TEACHER = TrainedNetwork(
    weights_sha256="a", best_epoch=3, validation_accuracy=0.5, train_seconds=1.5, workers=1
)
REGISTERED = Registered(name="m", version="1", aliases=("champion",), promotion="first", uri="models:/m/1")


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path)


def begin(storage, *overrides, fingerprint="f" * 64) -> Manifest:
    return Manifest.open(storage, load_experiment("digits", overrides), "mine", fingerprint, "code")


def test_what_is_done_is_remembered(storage):
    begin(storage).finish("teachers", 1.23456, {"teacher-0": TEACHER})
    again = begin(storage)
    assert again.done("teachers")
    assert not again.done("control")
    assert again.content.teachers == {"teacher-0": TEACHER}
    assert again.content.stages["teachers"].seconds == 1.235


def test_the_summary_names_what_was_trained_before_and_by_which_run(storage):
    manifest = begin(storage)
    reused = TEACHER.model_copy(update={"train_seconds": 0.0, "reused_from": "search-1/trial-0003"})
    manifest.finish("teachers", 1.0, {"teacher-0": TEACHER, "teacher-1": reused})
    assert summarise(begin(storage).content).to_json()["reused"] == {"teacher-1": "search-1/trial-0003"}


def test_a_driver_that_was_overtaken_cannot_undo_what_its_successor_did(storage):
    overtaken = begin(storage)
    begin(storage).finish("teachers", 1.0, {})
    with pytest.raises(StorageError, match="another driver has taken this run over"):
        overtaken.finish("control", 1.0, {})
    with pytest.raises(StorageError, match="another driver"):
        overtaken.set(status="failed")
    assert begin(storage).done("teachers")


def test_the_mlflow_runs_of_an_earlier_start_are_remembered(storage):
    begin(storage).note_mlflow_run("parent", "abc")
    assert begin(storage).content.mlflow == {"parent": "abc"}


def test_the_time_of_creation_stays(storage):
    created = begin(storage).content.created
    assert begin(storage).content.created == created


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["seed=1"], ["seed"]),
        (["student.training.learning_rate=0.01"], ["student.training.learning_rate"]),
        (["data.train_size=150", "distillation.alpha=0.5"], ["data.train_size", "distillation.alpha"]),
        (["perturbation.kind=none"], ["perturbation.kind"]),
        (["teachers.training.epochs=3"], ["teachers.0.training.epochs"]),
    ],
)
def test_other_settings_are_refused_by_their_keys(storage, overrides, named):
    begin(storage)
    before = storage.read(MANIFEST)
    with pytest.raises(ExperimentError, match="run mine was started with another") as refused:
        begin(storage, *overrides)
    assert all(key in str(refused.value) for key in named)
    assert storage.read(MANIFEST) == before


@pytest.mark.parametrize(
    "override",
    [
        "cluster.cpus_per_worker=2",
        "cluster.address=local",
        "storage.keep_checkpoints=5",
        "tracking.registered_model=other",
        "description=other",
        "data.root=/elsewhere",
    ],
)
def test_where_a_run_goes_on_does_not_matter(storage, override):
    begin(storage).finish("teachers", 1, {})
    assert begin(storage, override).done("teachers")


def test_other_data_is_refused(storage):
    begin(storage)
    with pytest.raises(
        ExperimentError, match=r"was started on other images; .*data\.root, or use another --run-id"
    ):
        begin(storage, fingerprint="0" * 64)


def test_more_images_are_said_and_are_a_run_of_their_own_that_is_found_again(storage):
    before, now = (
        a_description(train=100, fingerprint="1" * 64),
        a_description(train=120, fingerprint="2" * 64),
    )
    run = storage.child("mine-0123456789")
    assert id_for_images(storage, "mine-0123456789", now) == ("mine-0123456789", None)
    manifest = Manifest.open(run, load_experiment("digits"), "mine-0123456789", before.fingerprint, "code")
    manifest.finish("prepare", 1, {"data": before})
    assert id_for_images(storage, "mine-0123456789", before) == ("mine-0123456789", None)
    found, notice = id_for_images(storage, "mine-0123456789", now)
    assert found.startswith("mine-")
    assert found != "mine-0123456789"
    assert notice == (
        "run mine-0123456789 is on other images (100 training images, now 120); on these it is run " + found
    )
    assert id_for_images(storage, "mine-0123456789", now) == (found, notice)
    assert id_for_images(storage, "mine-0123456789", now.model_copy(update={"fingerprint": "3"}))[0] != found
    with pytest.raises(ExperimentError, match=r"other images \(100 training images, now 120\); restore"):
        check_continuable(run, load_experiment("digits"), "mine-0123456789", now)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_manifest_is_named(storage, content):
    begin(storage)
    storage.write(MANIFEST, content)
    with pytest.raises(
        ExperimentError, match=r"manifest\.json: not valid JSON, so the run cannot be continued"
    ):
        begin(storage)


def rewrite(storage, key=MANIFEST, **changes) -> None:
    storage.write(key, json.dumps(json.loads(storage.read(key)) | changes).encode())


def test_a_manifest_of_a_newer_format_is_refused(storage):
    begin(storage)
    rewrite(storage, format=99)
    with pytest.raises(ExperimentError, match=r"manifest\.json: format 99 is of a newer version .* use that"):
        begin(storage)


def test_outputs_of_another_kind_are_named(storage):
    begin(storage)
    rewrite(storage, stages={"average": {"seconds": 1, "outputs": {"network": "n", "weights_sha256": 3}}})
    with pytest.raises(
        ExperimentError,
        match=r"manifest\.json: not the manifest of a run \(stages: average: weights_sha256: .*string",
    ):
        begin(storage)


def test_an_unfinished_run_of_an_earlier_version_is_refused_with_what_to_do(storage):
    begin(storage).finish("control", 1.0, {})
    rewrite(storage, format=1)
    with pytest.raises(
        ExperimentError, match=r"run mine .*earlier version.*\(code code\).*finish it with that"
    ):
        begin(storage)


def test_a_measured_run_of_an_earlier_version_goes_on_as_what_it_is(storage):
    begin(storage).finish("evaluate", 1.0, {"predictors": {}})
    rewrite(storage, format=1)
    begin(storage).finish("register", 1.0, REGISTERED)
    assert begin(storage).content.registered == REGISTERED
    assert json.loads(storage.read(MANIFEST))["format"] == 1


def test_settings_that_an_earlier_version_did_not_know_are_not_held_against_a_run(storage):
    begin(storage).finish("control", 1.0, {})
    tree = json.loads(storage.read(EXPERIMENT))
    del tree["student"]["select_by"]
    del tree["distillation"]["assignment"]
    storage.write(EXPERIMENT, json.dumps(tree).encode())
    assert begin(storage).done("control")
    with pytest.raises(ExperimentError, match=r"another student\.select_by;"):
        begin(storage, "student.select_by=members")


def test_the_resolved_experiment_lies_beside_it(storage):
    begin(storage, "seed=7")
    assert json.loads(storage.read(EXPERIMENT))["seed"] == 7


def test_after_a_search_the_experiment_of_a_run_is_its_best_trials(storage):
    begin(storage).finish("average", 1.0, {"network": "networks/averaged", "weights_sha256": "a"})
    _, pool = read_run(storage, "average")
    assert [group.count for group in pool.teachers] == [4]
    values = {"distillation.temperature": 7.0, "student.members": 2}
    begin(storage).finish("search", 1.0, {"best": {"trial": "trial-0001", "values": values, "score": 0.9}})
    _, best = read_run(storage, "average")
    assert best.distillation.temperature == 7.0
    assert best.student.members == best.teachers[0].count == 2
    assert begin(storage).done("search"), "the run is continued as what it was begun with"

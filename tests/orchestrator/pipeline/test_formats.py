"""What is stored states its format: an older one is read, a newer one refused by name and left as it is."""

import json
from collections.abc import Iterator

import pytest
import torch
from training_runs import a_description, label_run

from ekd_train.persistence.checkpoint import Checkpoint, Checkpoints, DamagedCheckpoint, save_record
from ekd_train.persistence.networks import Networks
from ekd_train.persistence.records import NewerRecord, Record, UnreadableRecord
from ekd_train.training.state import progress_in
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.manifest import MANIFEST, Manifest, NewerDocument, read_experiment, read_manifest
from orchestrator.pipeline.projection import project  # with it every kind of record is imported
from orchestrator.robustness.content import read_evaluation
from orchestrator.robustness.evaluation import _stored
from orchestrator.storage import LocalStorage


def kinds(of: type[Record] = Record) -> Iterator[type[Record]]:
    for kind in of.__subclasses__():
        if kind.__module__.startswith(("ekd_train.", "orchestrator.")):
            yield kind
        yield from kinds(kind)


KINDS = sorted(kinds(), key=lambda kind: kind.__name__)


class ANote(Record):
    WHAT = "a note"

    format: int = 2
    text: str
    size: int = 1


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def run(storage) -> LocalStorage:
    Manifest.open(storage, load_experiment("digits"), "mine", "f" * 64, "abc123")
    return storage


def changed(storage: LocalStorage, key: str, **values) -> bytes:
    data = json.dumps({**json.loads(storage.read(key)), **values}).encode()
    storage.write(key, data)
    return data


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_newer_format_of_any_document_is_refused_by_name_and_version(kind):
    newest = kind.model_fields["format"].default
    line = rf"^a/file: format {newest + 1} is of a newer version of ekd \(v9\), this one reads up to {newest}"
    with pytest.raises(NewerRecord, match=line):
        kind.parse({"format": newest + 1, "code_version": "v9"}, "a/file")


@pytest.mark.parametrize("number", ["2", 2.0, True, 0, -1, None, [], {}])
def test_a_format_that_is_no_number_is_no_document(number):
    with pytest.raises(UnreadableRecord, match=r"^a/file: not a note"):
        ANote.parse({"format": number, "text": "x"}, "a/file")


def test_a_key_that_was_added_since_is_filled_and_one_of_a_newer_version_left_out():
    assert ANote.parse({"format": 1, "text": "x"}, "a/file").size == 1
    assert ANote.parse({"format": 2, "text": "x", "colour": "red"}, "a/file") == ANote(text="x")


def test_a_key_that_was_renamed_without_a_new_format_is_named():
    with pytest.raises(UnreadableRecord, match=r"^a/file: not a note \(text: Field required\)"):
        ANote.parse({"format": 2, "words": "x"}, "a/file")


def test_a_newer_manifest_is_left_as_it_is(run):
    written = changed(run, MANIFEST, format=99)
    for read in (read_manifest, lambda run: project(run, load_experiment("digits"))):
        with pytest.raises(NewerDocument, match=rf"{run.uri(MANIFEST)}: format 99 .* \(abc123\)"):
            read(run)
    assert run.read(MANIFEST) == written


def test_a_newer_network_is_not_trained_again_in_its_place(storage):
    networks = Networks(storage.child("mine"), storage.child("networks"), a_description(), "mine")
    training_run = label_run()
    for store, key in (
        (networks.run, f"networks/{training_run.name}.json"),
        (networks.shared, f"{networks.address(training_run)}.json"),
    ):
        save_record(store, key, {"format": 99, "identity": networks.identity(training_run)})
        with pytest.raises(NewerRecord, match=f"{key}: format 99"):
            networks.find(training_run)
        store.delete(key)


def test_a_newer_checkpoint_is_neither_passed_over_nor_replaced(storage, caplog):
    checkpoints = Checkpoints(storage, "c", "identity")
    with checkpoints.storing():
        checkpoints.save(1, {"w": torch.ones(2)}, {}, None)
    save_record(storage, "c/epoch-00002.json", {"format": 99})
    before = {key: storage.read(key) for key in storage.list()}
    with pytest.raises(NewerRecord, match=r"c/epoch-00002\.json: format 99 is of a newer version"):
        Checkpoints(storage, "c", "identity").newest()
    assert {key: storage.read(key) for key in storage.list()} == before


PROGRESS = {"epoch": 1, "seconds": 2.0, "history": [{"epoch": 1.0}], "best": None}


def test_the_progress_in_a_checkpoint_is_read_as_what_it_is():
    def checkpoint(record):
        return Checkpoint(1, 0, {}, record, {})

    assert vars(progress_in(checkpoint({**PROGRESS, "added": 5}))) == PROGRESS
    for key in PROGRESS:
        with pytest.raises(DamagedCheckpoint, match=f"its progress cannot be read \\({key}: Field required"):
            progress_in(checkpoint({name: value for name, value in PROGRESS.items() if name != key}))
    with pytest.raises(DamagedCheckpoint, match=r"history\.0"):
        progress_in(checkpoint({**PROGRESS, "history": [5]}))


def test_a_setting_of_another_version_is_refused_with_the_version_that_reads_it(run):
    student = json.loads(run.read("experiment.json"))["student"]
    changed(run, "experiment.json", student={**student, "sharpness": 3})
    line = rf"^{run.uri('experiment.json')}: student.sharpness: unknown key; .*; ekd of code abc123 wrote it"
    with pytest.raises(ExperimentError, match=line):
        read_experiment(run)


def test_a_newer_evaluation_is_not_measured_again_in_its_place_and_a_damaged_one_is(storage):
    storage.write("evaluation.json", b'{"format": 99}')
    for read in (read_evaluation, _stored):
        with pytest.raises(NewerDocument, match=r"evaluation\.json: format 99 is of a newer version"):
            read(storage)
    storage.write("evaluation.json", b'{"format": 3, "corruption": 5}')
    assert _stored(storage) is None
    with pytest.raises(ExperimentError, match=r"evaluation\.json: not an evaluation \(identity: Field req"):
        read_evaluation(storage)

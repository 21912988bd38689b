"""Any value may stand in a run's documents: a command reads it, or says in a line which one is wrong."""

import copy
import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from ekd_train.persistence.checkpoint import Checkpoints, DamagedCheckpoint, save_record
from ekd_train.persistence.records import NewerRecord
from orchestrator.errors import EkdError
from orchestrator.pipeline.status import all_runs, one_run
from orchestrator.report import load_evidence
from orchestrator.report.findings import Findings
from orchestrator.report.images import mistakes
from orchestrator.storage import open_storage

pytestmark = pytest.mark.attack

GOLDEN = Path(__file__).parents[1] / "golden"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("finished", "searched"):
        shutil.copytree(GOLDEN / name, folder / name)
    return folder


def changed(data: st.DataObject, tree):
    """The document with another value in one place of it."""
    made = copy.deepcopy(tree)
    place = made
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            return made
        place = place[key]


@fuzzed
@given(data=st.data(), name=st.sampled_from(["finished", "searched"]))
def test_a_changed_document_is_read_or_named(runs, data, name):
    documents = ["manifest.json", "experiment.json", "networks/student.json", "evaluation/predictions.json"]
    documents += ["search.json", "trials/trial-0000/trial.json"] if name == "searched" else []
    document = data.draw(st.sampled_from(documents))
    file = runs / name / document
    whole = file.read_text()
    try:
        file.write_text(json.dumps(changed(data, json.loads(whole))))
        run = open_storage(str(runs / name))
        all_runs(open_storage(str(runs)))
        for look in (lambda: one_run(run, name), lambda: load_evidence(run)):
            with suppress(EkdError):
                look()
    finally:
        file.write_text(whole)


@fuzzed
@given(data=st.data())
def test_a_changed_record_of_a_checkpoint_is_passed_over(tmp_path_factory, data):
    """The one before it is taken; one of a newer version is left to it."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(GOLDEN / "unfinished" / "checkpoints", folder / "checkpoints")
    key = "checkpoints/student/epoch-00150.json"
    record = json.loads((folder / key).read_text())["record"]
    store = open_storage(str(folder))
    save_record(store, key, changed(data, record))  # with its right hash
    with suppress(NewerRecord):
        found = Checkpoints(store, "checkpoints/student", record["identity"]).newest()
        assert found is not None
        assert found.epoch in (100, 150)


@pytest.mark.parametrize(
    "document", ["manifest.json", "experiment.json", "owner.json", "networks/student.json"]
)
def test_a_document_of_a_tebibyte_is_not_read(tmp_path, document):
    shutil.copytree(GOLDEN / "unfinished", tmp_path / "unfinished")
    (tmp_path / "unfinished" / document).touch()
    os.truncate(tmp_path / "unfinished" / document, 1 << 40)
    run = open_storage(str(tmp_path / "unfinished"))
    all_runs(open_storage(str(tmp_path)))
    for look in (lambda: one_run(run, "unfinished"), lambda: load_evidence(run)):
        with suppress(EkdError):
            look()


PROBS, LABELS, MISTAKES = "test/averaged", "test/labels", "mistakes/indices"


def with_mistakes(made, indices, shape):
    images = torch.zeros(shape, dtype=torch.uint8)
    return {**made, MISTAKES: torch.tensor(indices), "mistakes/images": images}


LIES = {
    "labels are missing": lambda made: {**made, LABELS: torch.empty(0)},
    "a predictor is missing": lambda made: {k: v for k, v in made.items() if k != PROBS},
    "fewer images": lambda made: {**made, PROBS: made[PROBS][:, :5].clone()},
    "fewer classes": lambda made: {**made, PROBS: made[PROBS][:, :, :3].clone()},
    "no members": lambda made: {**made, PROBS: made[PROBS][:0].clone()},
    "no such class": lambda made: {**made, LABELS: made[LABELS] + 1000},
    "below all classes": lambda made: {**made, LABELS: made[LABELS] - 1000},
    "not numbers": lambda made: {**made, PROBS: made[PROBS] * float("nan")},
    "whole numbers": lambda made: {**made, PROBS: made[PROBS].long()},
    "nothing": lambda made: {},
    "mistakes without images": lambda made: {**made, MISTAKES: torch.tensor([0])},
    "mistakes of another size": lambda made: with_mistakes(made, [0], (1, 1, 9, 8)),
    "mistakes of another number": lambda made: with_mistakes(made, [0], (2, 1, 8, 8)),
    "a mistake beyond the test images": lambda made: with_mistakes(made, [10**6], (1, 1, 8, 8)),
    "a mistake before the test images": lambda made: with_mistakes(made, [-1], (1, 1, 8, 8)),
    "a mistake between images": lambda made: with_mistakes(made, [0.5], (1, 1, 8, 8)),
}


def looked_at(evidence):
    """As a report does, which reads a table when it needs it."""
    return Findings(evidence), mistakes(evidence)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_predictions_of_other_images_are_named(tmp_path, lie):
    """Their hashes are right: whoever wrote them wrote those as well."""
    shutil.copytree(GOLDEN / "finished", tmp_path / "finished")
    folder = tmp_path / "finished" / "evaluation"
    tensors, record = folder / "predictions.safetensors", folder / "predictions.json"
    tensors.write_bytes(safetensors.torch.save(lie(safetensors.torch.load(tensors.read_bytes()))))
    tree = json.loads(record.read_text())
    tree["record"]["sha256"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
    tree["sha256"] = hashlib.sha256(json.dumps(tree["record"], sort_keys=True).encode()).hexdigest()
    record.write_text(json.dumps(tree))
    with pytest.raises(DamagedCheckpoint, match="not what was predicted on this run's images") as caught:
        looked_at(load_evidence(open_storage(str(tmp_path / "finished"))))
    assert "\n" not in str(caught.value)

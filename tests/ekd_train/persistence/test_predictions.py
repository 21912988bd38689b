"""What an evaluation predicted: written as it comes, read when it is asked for, in the room of one table."""

import json
import math
import subprocess
import sys

import pytest
import torch
from training_runs import MemoryStore, a_description

from ekd_train.metrics import all_metrics
from ekd_train.persistence.checkpoint import DamagedCheckpoint, save_record, save_tensors
from ekd_train.persistence.predictions import PredictionsWriter, load_predictions
from ekd_train.persistence.records import PredictionsRecord

TABLES = {
    "validation/one": torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0)),
    "test/one": torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1)),
}
LABELS = {"validation/labels": torch.tensor([0, 1, 2, 0, 1]), "test/labels": torch.arange(7) % 3}
DATA = a_description(num_classes=3, validation=5, test=7)


def stored(tensors, rows=1000):
    """A store with these, tables in blocks of so many images."""
    store = MemoryStore()
    writer = PredictionsWriter(store)
    for key, tensor in tensors.items():
        for block in tensor.split(rows, dim=1) if key in TABLES else [tensor]:
            writer.add(key, block)
    writer.commit(PredictionsRecord(cost={}))
    return store


@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
def test_whatever_the_blocks_the_tables_are_what_was_predicted(rows):
    found = load_predictions(stored(TABLES | LABELS, rows), DATA, ["one"])
    assert set(found) == {*TABLES, *LABELS}
    for key, logits in TABLES.items():
        expected = logits.double().softmax(-1)
        torch.testing.assert_close(found[key], expected, rtol=0, atol=0)
        torch.testing.assert_close(found.pooled(key), expected.mean(0), rtol=0, atol=0)
        assert sum(block.shape[1] for block in found.blocks(key)) == logits.shape[1]
    assert torch.equal(found["test/labels"], LABELS["test/labels"])
    assert "test/two" not in found


def test_a_class_that_vanishes_in_float32_costs_what_its_logit_says_after_a_temperature():
    data = a_description(num_classes=3, validation=1, test=1)
    logits, temperature = torch.tensor([[[0.0, -600.0, -650.0]]]), 100.0
    tensors = {"validation/labels": torch.tensor([1]), "test/labels": torch.tensor([1])}
    store = stored(tensors | {"validation/one": logits, "test/one": logits.clone()})
    probs = load_predictions(store, data, ["one"]).pooled("test/one")
    assert probs[0, 1].float() == 0
    expected = 6 + math.log(1 + math.exp(-6) + math.exp(-6.5))
    calibrated = all_metrics(probs, tensors["test/labels"], temperature)["cnll"]
    assert calibrated == pytest.approx(expected, abs=1e-5)  # the metric adds 1e-8 to the probability


@pytest.mark.parametrize("holds", ["probabilities", "logits"])
def test_what_an_earlier_version_stored_in_one_file_is_read(holds):
    store = MemoryStore()
    probs = {key: logits.softmax(-1) for key, logits in TABLES.items()}
    tensors = (TABLES if holds == "logits" else probs) | LABELS
    sha256 = save_tensors(store, "evaluation/predictions.safetensors", tensors)
    record = PredictionsRecord(format=1, sha256=sha256, holds=holds, cost={})
    save_record(store, "evaluation/predictions.json", record.model_dump())
    found = load_predictions(store, DATA, ["one"])
    for key, expected in probs.items():
        torch.testing.assert_close(found[key].float(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.pooled(key).float(), expected.mean(0), rtol=1e-6, atol=1e-7)


LIES = {
    "of other images": {"test/one": torch.zeros(1, 6, 3)},
    "of other classes": {"test/one": torch.zeros(1, 7, 4)},
    "of no member": {"test/one": torch.zeros(0, 7, 3)},
    "whole numbers": {"test/one": torch.zeros(1, 7, 3, dtype=torch.int64)},
    "no numbers": {"test/one": torch.full((1, 7, 3), math.nan)},
    "flat": {"test/one": torch.zeros(7, 3)},
    "labels of other images": {"test/labels": torch.zeros(8, dtype=torch.int64)},
    "labels beyond the classes": {"test/labels": torch.full((7,), 3)},
    "labels between classes": {"test/labels": torch.full((7,), 0.5)},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_is_not_of_the_runs_images_is_named_though_its_hash_is_right(lie):
    found = load_predictions(stored(TABLES | LABELS | lie), DATA, ["one"])
    with pytest.raises(DamagedCheckpoint, match="not what was predicted on this run's images") as caught:
        found.pooled("test/one")
    assert "\n" not in str(caught.value)


def test_blocks_of_other_members_are_no_table():
    store = MemoryStore()
    writer = PredictionsWriter(store)
    for key, tensor in (TABLES | LABELS).items():
        writer.add(key, tensor[:, :4] if key == "test/one" else tensor)
    writer.add("test/one", torch.zeros(3, 3, 3))
    writer.commit(PredictionsRecord(cost={}))
    with pytest.raises(DamagedCheckpoint, match="a block is of other members"):
        load_predictions(store, DATA, ["one"]).pooled("test/one")


def test_a_changed_or_missing_object_is_named():
    store = stored(TABLES | LABELS, rows=4)
    key = "evaluation/predictions/test/one.1.safetensors"
    store.objects[key] = store.objects[key][:-1] + b"x"
    with pytest.raises(DamagedCheckpoint, match=key):
        load_predictions(store, DATA, ["one"]).pooled("test/one")
    with pytest.raises(DamagedCheckpoint, match="there is no test/two"):
        load_predictions(store, DATA, ["one", "two"])


PROGRAM = """
import json, resource, sys
from pathlib import Path
import torch
sys.path[:0] = {path}
from training_runs import a_description
from ekd_train.persistence import predictions
from ekd_train.persistence.predictions import PredictionsWriter, load_predictions, rows_of_a_block
from ekd_train.persistence.records import Cost, PredictionsRecord
from orchestrator.pipeline.stages.evaluate import measure
from orchestrator.storage.local import LocalStorage

torch.set_num_threads(1)
folder, what, networks, images, classes = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
store = LocalStorage(folder)
data = a_description(num_classes=classes, validation=images, test=images)
names = [f"teacher/{{n}}" for n in range(networks)] + ["ensemble"]
cost = {{name: Cost(params=1, macs=1) for name in names}}
if what == "write":
    draw, writer = torch.Generator().manual_seed(0), PredictionsWriter(store)
    for split in ("validation", "test"):
        labels = torch.randint(classes, (images,), generator=draw)
        writer.add(f"{{split}}/labels", labels)
        for name in names:
            members = 2 if name == "ensemble" else 1
            step = rows_of_a_block(members, classes)
            for start in range(0, images, step):
                rows = min(step, images - start)
                logits = torch.randn(members, rows, classes, generator=draw)
                logits[:, torch.arange(rows), labels[start : start + rows]] += 3
                writer.add(f"{{split}}/{{name}}", logits)
    writer.commit(PredictionsRecord(cost=cost))
else:
    predictions.KEPT_BYTES = 0
    accuracy = measure(load_predictions(store, data, names), cost)["ensemble"].test["accuracy"]
    print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, accuracy]))
"""


def measured(folder, networks: int, images: int, classes: int) -> tuple[float, float]:
    """The most memory that a process which measures them had, in MiB, and the ensemble's accuracy."""
    program = PROGRAM.format(path=[path for path in sys.path if path])
    for what in ("write", "read"):
        words = [sys.executable, "-c", program, str(folder), what, *map(str, (networks, images, classes))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    mib, accuracy = json.loads(done.stdout)
    return mib, accuracy


@pytest.mark.slow
def test_however_many_networks_measuring_them_takes_the_room_of_one(tmp_path):
    """Tables of 2,000 images and 1,000 classes, 16 MB each in float64, of which none is kept."""
    (few, _), (many, accuracy) = (measured(tmp_path / str(n), n, 2000, 1000) for n in (2, 6))
    assert 0.5 < accuracy < 1
    assert many < few + 64, (few, many)  # 8 tables more would be 128

import json
import time
from typing import Any

import pytest
import torch
from training_runs import (
    CLASSES,
    MemoryStore,
    a_description,
    label_run,
    made_up_data,
    made_up_images,
    networks_in,
    student_run,
    with_training,
)

from ekd_train.data.tensors import DeviceData
from ekd_train.distributed import Workers
from ekd_train.metrics import all_metrics
from ekd_train.models.build_network import averaged
from ekd_train.persistence.checkpoint import DamagedCheckpoint, load_tensors
from ekd_train.persistence.networks import load_network_record, save_average
from ekd_train.persistence.predictions import load_predictions
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import Evaluation, MemberWeighing, TrainingRun
from ekd_train.training.reporter import Silent
from ekd_train.training.speed import precision_on
from ekd_train.workers.jobs import execute

STUDENT = student_run("latent_be", "tdiv_sdiv", epochs=1)
CONTROL = label_run("control", epochs=1)
TEACHER = STUDENT.teachers[0]


class Forbidden:
    """Test images before their time: whatever is done with them fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the test images were touched: {name}")


@pytest.fixture
def data() -> DeviceData:
    made = made_up_data()
    return DeviceData(made, made_up_images(12, seed=3), a_description(fingerprint="abc"))


def do(job, data, store) -> tuple[Any, Silent]:
    reporter = Silent()
    networks = networks_in(store, data.description)
    return execute(job, data, networks, reporter, Workers()), reporter


def train_all(data: DeviceData, store: MemoryStore) -> None:
    for run in (*STUDENT.teachers, CONTROL, STUDENT):
        do(run, data, store)
    student = networks_in(store, data.description).load(STUDENT)
    save_average(store, averaged(student), NetworkRecord(identity="x"))


def test_training_never_touches_the_test_images(data):
    hidden = DeviceData(data.training, Forbidden(), data.description)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="the test images were touched: images"):
        hidden.test.images  # noqa: B018
    train_all(hidden, MemoryStore())


def test_a_finished_run_is_found_and_neither_trained_nor_written_again(data):
    store = MemoryStore()
    first, reporter = do(TEACHER, data, store)
    assert [record["epoch"] for record in reporter.records] == [1, 2, 3, 4]
    changes = len(store.states)
    again, silent = do(TEACHER, data, store)
    assert again == first
    assert silent.records == []
    assert len(store.states) == changes


@pytest.mark.parametrize("part", ["safetensors", "json"])
@pytest.mark.parametrize("damage", [lambda d: d[:-7], lambda d: d[:-9] + b"\x01" + d[-8:], lambda d: b""])
def test_a_damaged_finished_network_is_trained_again_to_the_same_bits(part, damage, data, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.0)  # when it ended is in its record
    store = MemoryStore()
    record, _ = do(TEACHER, data, store)
    before = dict(store.objects)
    for key in [key for key in before if key.endswith(part) and not key.startswith("checkpoints")]:
        store.objects[key] = damage(before[key])
    found, _ = do(TEACHER, data, store)
    assert found == record
    assert store.objects == before


def test_a_damaged_teacher_is_not_learnt_from(data):
    store = MemoryStore()
    train_all(data, store)
    networks = networks_in(store, data.description)
    for key in ("networks/student.json", f"{networks.address(STUDENT)}.json"):
        del store.objects[key]
    key = f"{load_network_record(store, 'teacher-1').sha256}.safetensors"
    store.objects[key] = store.objects[key][:-4] + b"\x00\x00\x80\x3f"
    with pytest.raises(DamagedCheckpoint, match=key):
        do(STUDENT, data, store)


@pytest.mark.parametrize(
    "other",
    [
        with_training(TEACHER, learning_rate=0.01),
        TEACHER.model_copy(update={"seed": 9}),
        TEACHER.model_copy(update={"architecture": TEACHER.architecture.model_copy(update={"width": 2})}),
    ],
)
def test_a_network_of_other_settings_is_not_taken_for_this_one(other: TrainingRun, data):
    store = MemoryStore()
    do(other, data, store)
    found, reporter = do(TEACHER, data, store)
    fresh, _ = do(TEACHER, data, MemoryStore())
    assert reporter.records
    assert found.sha256 == fresh.sha256


def test_a_network_of_other_data_is_not_taken_for_this_one(data):
    store = MemoryStore()
    do(TEACHER, data, store)
    other = DeviceData(data.training, data.test, a_description(fingerprint="xyz"))
    assert do(TEACHER, other, store)[1].records


def test_the_record_tells_how_the_network_came_about(data):
    store = MemoryStore()
    record, _ = do(TEACHER, data, store)
    assert record.workers == 1
    assert record.seconds > 0
    assert record.precision == precision_on(TEACHER.training.speed, torch.device("cpu"))
    assert record.best in record.history
    stored = json.loads(store.objects["networks/teacher-0.json"])["record"]
    assert NetworkRecord.parse(stored, "") == record
    assert record.trained_by == "alone"
    assert load_tensors(store, f"{record.sha256}.safetensors", record.sha256, 1 << 20)


@pytest.mark.slow
def test_an_evaluation_predicts_both_splits_with_every_predictor(data):
    store = MemoryStore()
    train_all(data, store)
    other = STUDENT.model_copy(update={"seed": 5})  # another network that the store has: before a search
    made, _ = do(other, data, store)
    do(STUDENT, data, store)
    papa = student_run("papa", "none", epochs=1, objective="auto")
    papa = papa.model_copy(update={"name": "control-papa", "teachers": ()})
    do(papa, data, store)
    job = Evaluation(control=CONTROL, student=STUDENT, controls=(papa,), baseline=other)
    record, _ = do(job, data, store)
    assert record.holds == "logits"
    tensors = load_predictions(store, data.description, record.cost)
    found = all_metrics(tensors["validation/baseline"].mean(0), data.training.validation.labels)["accuracy"]
    assert found == made.best["averaged/accuracy"]
    assert "test/baseline" not in tensors
    members = {"control": 1, "teacher/0": 1, "teacher/1": 1, "ensemble": 2, "members": 2, "averaged": 1}
    members["control/papa"] = 1
    assert set(record.cost) == set(members)
    for split, images in (("validation", data.training.validation), ("test", data.test)):
        assert torch.equal(tensors[f"{split}/labels"], images.labels)
        for name, count in members.items():
            probs = tensors[f"{split}/{name}"]
            assert probs.shape == (count, len(images.labels), CLASSES)
            torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:2], dtype=torch.float64))
        both = torch.cat([tensors[f"{split}/teacher/{i}"] for i in range(2)])
        torch.testing.assert_close(tensors[f"{split}/ensemble"], both)
    wrong = [i for i, row in enumerate(tensors["test/averaged"][0]) if row.argmax() != data.test.labels[i]]
    assert 0 < len(wrong) <= 12
    assert sorted(tensors["mistakes/indices"].tolist()) == wrong
    assert torch.equal(tensors["mistakes/images"], data.test.images[tensors["mistakes/indices"]])
    assert record.cost["averaged"].macs == record.cost["control"].macs


def test_the_best_teacher_alone_teaches_where_that_is_asked_for(data):
    store, alone = MemoryStore(), MemoryStore()
    kd = student_run("kd", "none", epochs=1)
    worth = [do(run, data, store)[0].best for run in kd.teachers]
    best = max(range(len(worth)), key=lambda i: (worth[i]["averaged/accuracy"], -worth[i]["averaged/nll"]))
    made, _ = do(kd.model_copy(update={"best_teacher_only": True}), data, store)
    do(kd.teachers[best], data, alone)
    expected, _ = do(kd.model_copy(update={"teachers": (kd.teachers[best],)}), data, alone)
    assert made.sha256 == expected.sha256
    assert made.identity != expected.identity


def test_members_are_weighed_and_the_lines_of_the_report_lead_to_the_weighed_average(data):
    store = MemoryStore()
    train_all(data, store)
    found, _ = do(MemberWeighing(student=STUDENT), data, store)
    assert sum(found.member_weights) == pytest.approx(1)
    student = networks_in(store, data.description).load(STUDENT)
    second = averaged(student, torch.tensor([0.0, 1.0]))
    save_average(store, second, NetworkRecord(identity="x"))
    job = Evaluation(
        control=CONTROL, student=STUDENT, member_weights=(0, 1), baseline=STUDENT, baseline_average="picked"
    )
    evaluated, _ = do(job, data, store)
    tensors = load_predictions(store, data.description, evaluated.cost)
    torch.testing.assert_close(tensors["test/averaged"][0], tensors["test/members"][1])
    to_average = evaluated.connectivity.to_average
    assert to_average[1] == pytest.approx([to_average[1][0]] * len(to_average[1]))
    baseline = averaged(student, torch.tensor(found.member_weights))  # weighed too, by its own images
    expected = baseline(data.training.validation.images.float() / 255).softmax(-1)
    torch.testing.assert_close(tensors["validation/baseline"][0].float(), expected, rtol=1e-3, atol=1e-4)

import pytest
import torch
from training_runs import MemoryStore, a_description, label_run, networks_in, student_run

from ekd_train.models.build_network import averaged, build_network, build_plain
from ekd_train.persistence.checkpoint import DamagedCheckpoint, save_record, save_tensors
from ekd_train.persistence.networks import (
    Networks,
    identity,
    load_average,
    save_average,
)
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import TrainingRun

pytestmark = pytest.mark.attack

SPEC = a_description()
RUN = student_run()


def build(run: TrainingRun) -> torch.nn.Module:
    torch.manual_seed(1)
    return build_network(run, SPEC)


def trained(networks: Networks, run: TrainingRun = RUN) -> NetworkRecord:
    record = NetworkRecord(identity=networks.identity(run), trained_by=networks.run_id, seconds=1.5)
    return networks.save(run, build(run), record)


def found(networks: Networks, run: TrainingRun = RUN) -> NetworkRecord | None:
    """What is found without a word."""
    said: list[str] = []
    record = networks.find(run, said.append)
    assert not said
    return record


@pytest.fixture
def shared() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def one(shared) -> Networks:
    return networks_in(MemoryStore(), shared=shared, run_id="one")


@pytest.fixture
def two(shared) -> Networks:
    """Of another run of the same storage."""
    return networks_in(MemoryStore(), shared=shared, run_id="two")


@pytest.mark.parametrize("run", [label_run("student"), RUN, student_run("ekd"), student_run("kd")])
def test_a_stored_network_predicts_as_before(run, one):
    trained(one, run)
    again = one.load(run)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(build(run).eval()(images), again(images))
    assert not again.training


def test_what_one_run_trained_every_run_of_the_storage_finds(one, two):
    record = trained(one)
    assert found(one) == found(two) == record
    assert record.trained_by == "one"
    two.refer(RUN, record)
    assert torch.equal(next(two.load(RUN).parameters()), next(one.load(RUN).parameters()))


def test_a_network_of_other_settings_data_or_workers_is_another(one, shared):
    trained(one)
    others = [
        networks_in(MemoryStore(), a_description(fingerprint="g"), shared=shared),
        networks_in(MemoryStore(), shared=shared, workers=2),
        networks_in(MemoryStore(), shared=shared, workers=(1, 2)),
    ]
    assert [found(each) for each in others] == [None, None, None]
    assert found(one, label_run("student")) is None


def test_weights_are_stored_once_however_many_runs_train_them(one, two, shared):
    assert trained(one).sha256 == trained(two).sha256
    assert sum(key.endswith(".safetensors") for key in shared.objects) == 1


def test_of_two_runs_that_train_it_at_once_to_other_bits_each_keeps_its_own(one, two):
    first = trained(one)
    other = build(RUN)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    second = two.save(RUN, other, first.model_copy(update={"trained_by": "two"}))
    assert (found(one), found(two)) == (first, second)
    weights = [next(each.load(RUN).parameters()) for each in (one, two)]
    torch.testing.assert_close(weights[0] + 1, weights[1])


def test_a_record_is_written_after_the_weights():
    store = MemoryStore()
    record = trained(networks_in(store))
    assert list(store.states[1]) == [f"{record.sha256}.safetensors"]


def test_weights_without_a_record_are_not_a_network(one, two, shared):
    trained(one)
    shared.delete(f"{one.address(RUN)}.json")
    assert found(two) is None


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "record changed"])
def test_a_damaged_network_is_not_found_and_one_line_says_so(damage, one, two, shared):
    record = trained(one)
    key = f"{one.address(RUN)}.json" if damage == "record changed" else f"{record.sha256}.safetensors"
    data = shared.objects[key]
    shared.objects[key] = data[:-9] if damage == "cut" else data[:-9] + b"\x55" + data[-8:]
    if damage == "gone":
        shared.delete(key)
    said: list[str] = []
    assert two.find(RUN, said.append) is None
    (line,) = said
    assert line.startswith("student: ")
    assert key in line
    assert line.endswith("; it is trained again")
    assert "\n" not in line


def test_a_damaged_given_teacher_is_not_said_to_be_trained(one, two, shared):
    given = RUN.model_copy(update={"role": "given"})
    record = trained(one, given)
    shared.delete(f"{record.sha256}.safetensors")
    said: list[str] = []
    assert two.find(given, said.append) is None
    assert said[0].endswith("; it is taken from its weights again")


def test_damaged_weights_are_not_loaded(one, shared):
    key = f"{trained(one).sha256}.safetensors"
    shared.objects[key] = shared.objects[key][:-1] + b"\x55"
    with pytest.raises(DamagedCheckpoint, match=key):
        one.load(RUN)


def test_a_record_names_no_file_but_weights(one, two, shared):
    record = trained(one).model_dump() | {"sha256": "../one/manifest"}
    save_record(shared, f"{one.address(RUN)}.json", record)
    said: list[str] = []
    assert two.find(RUN, said.append) is None
    assert "sha256" in said[0]


def test_a_network_of_a_run_before_they_were_shared_is_found_beside_its_record(one):
    sha256 = save_tensors(one.run, "networks/student.safetensors", build(RUN).state_dict())
    record = NetworkRecord(format=2, identity=one.identity(RUN), sha256=sha256)
    save_record(one.run, "networks/student.json", record.model_dump(exclude={"trained_by"}))
    assert found(one) == record
    assert torch.equal(next(one.load(RUN).parameters()), next(build(RUN).parameters()))


def test_identity_depends_on_settings_teachers_and_data():
    seen = {
        identity(RUN, "f"),
        identity(RUN, "g"),
        identity(RUN.model_copy(update={"seed": 6}), "f"),
        identity(RUN.model_copy(update={"teachers": RUN.teachers[:1]}), "f"),
        identity(student_run("latent_be", "tdiv"), "f"),
    }
    assert len(seen) == 5
    assert identity(RUN, "f") == identity(student_run(), "f")


def test_the_averaged_student_loads_into_the_plain_architecture():
    store = MemoryStore()
    plain = averaged(build(RUN))
    save_average(store, plain, NetworkRecord(identity="i"))
    loaded = load_average(store, build_plain(RUN.architecture, SPEC))
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(images), plain.eval()(images))

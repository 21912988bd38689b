import pytest
import torch
from training_runs import MemoryStore, label_run, student_run

from ekd_train.data.description import ImageSpec
from ekd_train.models.build_network import averaged, build_network, build_plain
from ekd_train.persistence.checkpoint import DamagedCheckpoint
from ekd_train.persistence.networks import find_network, identity, load_network, load_weights, save_network
from ekd_train.persistence.records import NetworkRecord

SPEC = ImageSpec(num_classes=3, image_shape=(1, 8, 8), mean=(0.4,), std=(0.3,))
RUN = student_run()


def build(run) -> torch.nn.Module:
    torch.manual_seed(1)
    return build_network(run, SPEC)


@pytest.mark.parametrize("run", [label_run("student"), RUN, student_run("ekd"), student_run("kd")])
def test_a_stored_network_predicts_as_before(run):
    store, network = MemoryStore(), build(run).eval()
    save_network(store, run.name, network, NetworkRecord(identity="i"))
    again = load_network(store, run, SPEC)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(network(images), again(images))
    assert not again.training


def test_a_network_is_found_by_its_identity():
    store = MemoryStore()
    record = save_network(store, "student", build(RUN), NetworkRecord(identity="i", seconds=1.5))
    assert find_network(store, "student", "i") == record
    assert find_network(store, "student", "j") is None
    assert find_network(store, "control", "i") is None


def test_weights_without_a_record_are_not_a_network():
    store = MemoryStore()
    save_network(store, "student", build(RUN), NetworkRecord(identity="i"))
    del store.objects["networks/student.json"]
    assert find_network(store, "student", "i") is None


def test_the_record_is_written_after_the_weights():
    store = MemoryStore()
    save_network(store, "student", build(RUN), NetworkRecord(identity="i"))
    assert list(store.states[1]) == ["networks/student.safetensors"]


def test_damaged_weights_are_not_found_and_not_loaded():
    store = MemoryStore()
    save_network(store, "student", build(RUN), NetworkRecord(identity="i"))
    key = "networks/student.safetensors"
    store.objects[key] = store.objects[key][:-1] + b"\x55"
    assert find_network(store, "student", "i") is None
    with pytest.raises(DamagedCheckpoint, match=key):
        load_network(store, RUN, SPEC)


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
    save_network(store, "averaged", plain, NetworkRecord(identity="i"))
    loaded = load_weights(store, "averaged", build_plain(RUN.architecture, SPEC))
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(images), plain.eval()(images))

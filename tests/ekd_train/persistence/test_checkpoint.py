import json
import logging
import threading

import pytest
import torch
from training_runs import MemoryStore, same_tensors

from ekd_train.persistence.bounded_tensors import room_for
from ekd_train.persistence.checkpoint import (
    Checkpoints,
    DamagedCheckpoint,
    load_record,
    load_tensors,
    save_record,
    save_tensors,
)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), value), "steps": torch.tensor(7)}


def save(checkpoints: Checkpoints, epoch: int, best: int = 1) -> None:
    checkpoints.save(epoch, tensors(epoch), {"epoch": epoch}, (best, tensors(100.0 + best)))
    checkpoints.flush()


def test_tensors_come_back_bit_for_bit_whatever_their_type():
    store = MemoryStore()
    odd = {
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(2**40),
        "flags": torch.tensor([True, False]),
        "view": torch.arange(12.0).view(3, 4).T,
    }
    found = load_tensors(store, "a", save_tensors(store, "a", odd), room_for(odd))
    assert found.keys() == odd.keys()
    for name, tensor in odd.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_record_keeps_floats_exactly():
    store = MemoryStore()
    record = {"loss": 0.1 + 0.2, "tiny": 5e-324, "nested": [{"nll": 1 / 3}], "infinite": float("inf")}
    save_record(store, "r", record)
    assert load_record(store, "r") == record


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20],
        lambda data: b"[1, 2]",
        lambda data: b"\xff\xfe",
        lambda data: data.replace(b'"epoch": 1', b'"epoch": 2'),
        lambda data: data.replace(b'"record"', b'"recard"'),
    ],
)
def test_a_damaged_record_is_refused_by_name(damage):
    store = MemoryStore()
    save_record(store, "checkpoints/x.json", {"epoch": 1})
    store.objects["checkpoints/x.json"] = damage(store.objects["checkpoints/x.json"])
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/x\.json: "):
        load_record(store, "checkpoints/x.json")


def test_damaged_tensors_are_refused_before_they_are_parsed():
    store = MemoryStore()
    sha256 = save_tensors(store, "x.safetensors", tensors(1.0))
    store.objects["x.safetensors"] = store.objects["x.safetensors"][:-1] + b"\x01"
    with pytest.raises(DamagedCheckpoint, match=r"x\.safetensors: its bytes have changed"):
        load_tensors(store, "x.safetensors", sha256, 1 << 20)


def test_the_newest_of_those_kept_is_found_with_its_best_weights():
    store = MemoryStore()
    checkpoints = Checkpoints(store, "c", "id", keep=2)
    for epoch in range(1, 6):
        save(checkpoints, epoch, best=min(epoch, 4))
    found = Checkpoints(store, "c", "id").newest()
    assert found is not None
    assert (found.epoch, found.record) == (5, {"epoch": 5})
    assert same_tensors(found.tensors, tensors(5))
    assert same_tensors(found.best, tensors(104))
    kept = ["best-00004.safetensors"] + [
        f"epoch-0000{e}.{s}" for e in (4, 5) for s in ("json", "safetensors")
    ]
    assert sorted(store.objects) == [f"c/{name}" for name in kept]


def test_the_best_weights_of_every_kept_checkpoint_are_kept():
    store = MemoryStore()
    checkpoints = Checkpoints(store, "c", "id", keep=2)
    for epoch, best in ((1, 1), (2, 2), (3, 3)):
        save(checkpoints, epoch, best)
    assert [key for key in sorted(store.objects) if "best" in key] == [
        "c/best-00002.safetensors",
        "c/best-00003.safetensors",
    ]


def test_unchanged_best_weights_are_written_once():
    store = MemoryStore()
    checkpoints = Checkpoints(store, "c", "id")
    save(checkpoints, 1)
    store.objects["c/best-00001.safetensors"] += b"mark"
    save(checkpoints, 2)
    assert store.objects["c/best-00001.safetensors"].endswith(b"mark")


class HeldStore(MemoryStore):
    """Writes nothing until it is let, and then fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.let, self.failures = threading.Event(), 0

    def write(self, key: str, data: bytes) -> None:
        assert self.let.wait(300)
        if self.failures:
            self.failures -= 1
            raise OSError("the store is full")
        super().write(key, data)


def test_training_goes_on_while_a_checkpoint_of_the_state_as_it_was_is_written():
    store = HeldStore()
    checkpoints = Checkpoints(store, "c", "id")
    state, best = tensors(1), tensors(2)
    checkpoints.save(1, state, {"epoch": 1}, (1, best))
    assert not store.objects
    state["weight"].zero_()
    best["weight"].zero_()
    store.let.set()
    found = checkpoints.newest()
    assert found is not None
    assert same_tensors(found.tensors, tensors(1))
    assert same_tensors(found.best, tensors(2))


def test_one_checkpoint_is_written_at_a_time():
    store = HeldStore()
    checkpoints = Checkpoints(store, "c", "id")
    checkpoints.save(1, tensors(1), {"epoch": 1}, None)
    threading.Timer(0.2, store.let.set).start()
    checkpoints.save(2, tensors(2), {"epoch": 2}, None)
    assert "c/epoch-00001.json" in store.objects


def failing() -> Checkpoints:
    """Those of a store whose first write fails."""
    store = HeldStore()
    store.failures = 1
    store.let.set()
    return Checkpoints(store, "c", "id")


@pytest.mark.parametrize("again", ["save", "flush", "newest"])
def test_what_went_wrong_with_a_checkpoint_is_raised_by_what_comes_next(again):
    checkpoints = failing()
    checkpoints.save(1, tensors(1), {"epoch": 1}, (1, tensors(101)))
    calls = {"save": lambda: save(checkpoints, 2), "flush": checkpoints.flush, "newest": checkpoints.newest}
    with pytest.raises(OSError, match="the store is full"):
        calls[again]()
    assert not checkpoints.store.list("c")
    save(checkpoints, 2)
    found = checkpoints.newest()
    assert found is not None
    assert (found.epoch, same_tensors(found.best, tensors(101))) == (2, True)


def test_what_ends_training_is_raised_though_the_checkpoint_before_it_was_not_stored(caplog):
    checkpoints = failing()

    def train():
        with checkpoints.storing():
            checkpoints.save(1, tensors(1), {"epoch": 1}, None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "was not stored: the store is full" in caplog.text


def test_training_does_not_end_well_without_its_last_checkpoint():
    checkpoints = failing()
    with pytest.raises(OSError, match="the store is full"), checkpoints.storing():
        checkpoints.save(1, tensors(1), {"epoch": 1}, None)


def test_there_is_no_newest_in_an_empty_store():
    assert Checkpoints(MemoryStore(), "c", "id").newest() is None


def test_a_checkpoint_of_another_identity_is_passed_over_with_a_warning(caplog):
    store = MemoryStore()
    save(Checkpoints(store, "c", "id"), 3)
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(store, "c", "other").newest() is None
    assert "c/epoch-00003.json: made with other settings or data" in caplog.text


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("why", ["other settings", "damaged"])
def test_later_checkpoints_that_cannot_be_used_do_not_crowd_out_new_ones(keep, why):
    store = MemoryStore()
    old = Checkpoints(store, "c", "id" if why == "damaged" else "other", keep=keep)
    save(old, 8)
    save(old, 9)
    if why == "damaged":
        for key in [key for key in store.objects if key.endswith(".json")]:
            store.objects[key] = store.objects[key][:-30]
    checkpoints = Checkpoints(store, "c", "id", keep=keep)
    assert checkpoints.newest() is None
    save(checkpoints, 1)
    found = Checkpoints(store, "c", "id").newest()
    assert found is not None
    assert found.epoch == 1
    assert not any("epoch-0000" in key and "00001" not in key for key in store.objects)


def test_best_weights_that_only_passed_over_checkpoints_need_go_with_them():
    store = MemoryStore()
    save(Checkpoints(store, "c", "other"), 9, best=8)
    checkpoints = Checkpoints(store, "c", "id")
    assert checkpoints.newest() is None
    save(checkpoints, 4, best=3)
    assert {key for key in store.objects if "best" in key} == {"c/best-00003.safetensors"}


def test_tensors_left_by_a_crash_between_two_deletions_are_removed():
    store = MemoryStore()
    checkpoints = Checkpoints(store, "c", "id", keep=1)
    save(checkpoints, 1)
    del store.objects["c/epoch-00001.json"]
    save(checkpoints, 2)
    assert not any("epoch-00001" in key for key in store.objects)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_process_that_has_lost_its_run_without_knowing_drops_nothing_of_the_one_ahead(keep):
    store = MemoryStore()
    checkpoints = Checkpoints(store, "c", "id", keep=keep)
    save(checkpoints, 4)
    lost, owner = (Checkpoints(store, "c", "id", keep=keep) for _ in range(2))
    assert lost.newest() is not None
    assert owner.newest() is not None
    save(owner, 8, best=1)
    save(owner, 12, best=11)
    ahead = {key: store.objects[key] for key in store.objects if "00012" in key or "00011" in key}
    ahead["c/epoch-00016.safetensors"] = store.objects["c/epoch-00016.safetensors"] = b"not committed yet"
    save(lost, 8, best=1)
    assert {key: store.objects.get(key) for key in ahead} == ahead
    found = Checkpoints(store, "c", "id").newest()
    assert found is not None
    assert found.epoch == 12


def test_epochs_are_ordered_by_number():
    store = MemoryStore()
    checkpoints = Checkpoints(store, "c", "id", keep=1)
    for epoch in (99_999, 100_000):
        save(checkpoints, epoch)
    found = Checkpoints(store, "c", "id").newest()
    assert found is not None
    assert found.epoch == 100_000


def test_a_record_is_readable_by_a_person():
    store = MemoryStore()
    save(Checkpoints(store, "c", "id"), 1)
    document = json.loads(store.objects["c/epoch-00001.json"])
    assert document["record"]["state"] == {"epoch": 1}
    assert len(document["sha256"]) == 64

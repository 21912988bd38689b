"""On a clock that only the networks move, so that every number is known."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ekd_train.evaluation import latency
from ekd_train.evaluation.latency import FEWEST_ROUNDS, ROUNDS, latency_setting, measure_latency

IMAGES = torch.zeros(2, 1, 4, 4)


class Clock:
    """Seconds that passed, and which network ran on how many images."""

    def __init__(self) -> None:
        self.now = 0.0
        self.forwards: list[tuple[str, int]] = []

    def network(self, name="a", seconds=lambda clock: 0.002):
        return Ticks(self, name, seconds)


class Ticks(nn.Module):
    def __init__(self, clock, name, seconds) -> None:
        super().__init__()
        self.clock, self.name, self.seconds = clock, name, seconds

    def forward(self, images):
        self.clock.forwards.append((self.name, len(images)))
        self.clock.now += self.seconds(self.clock)
        return images


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


def test_it_is_the_time_of_one_forward_at_each_batch_size(clock):
    measured = measure_latency({"a": clock.network()}, IMAGES, batches=(1, 5))["a"]
    assert {size for _, size in clock.forwards} == {1, 5}
    assert measured["latency_ms"] == pytest.approx({"1": 2, "5": 2})
    assert measured["latency_quartiles_ms"]["5"] == pytest.approx([2, 2])


def test_the_quartiles_hold_the_median_and_half_of_the_forwards(clock):
    """1, 2, 3 and 4 ms in turn, over and over."""
    network = clock.network(seconds=lambda clock: 0.001 * (1 + len(clock.forwards) % 4))
    measured = measure_latency({"a": network}, IMAGES, batches=(1,), seconds=10)["a"]
    low, high = measured["latency_quartiles_ms"]["1"]
    assert (low, measured["latency_ms"]["1"], high) == pytest.approx((1.75, 2.5, 3.25), abs=0.5)


def test_networks_take_turns(clock):
    networks = {name: clock.network(name) for name in "ab"}
    measure_latency(networks, IMAGES, batches=(1,))
    ran = [name for name, _ in clock.forwards]
    turns = [name for name, before in zip(ran, [None, *ran], strict=False) if name != before]
    assert turns == ["a", "b"] * (1 + ROUNDS)  # the warm-up, then the rounds


def test_the_same_network_twice_is_equally_fast_while_the_machine_slows_down_threefold(clock):
    slower = dict.fromkeys("ab", lambda clock: 0.001 * (1 + clock.now / 0.2))
    networks = {name: clock.network(name, seconds) for name, seconds in slower.items()}
    measured = measure_latency(networks, IMAGES, batches=(1,))
    assert clock.now > 0.4
    one, other = (measured[name]["latency_ms"]["1"] for name in "ab")
    assert one == pytest.approx(other, rel=0.12)


def test_a_slow_network_is_timed_a_few_times_only(clock):
    measure_latency({"slow": clock.network(seconds=lambda clock: 5)}, IMAGES, batches=(1,))
    assert len(clock.forwards) == 1 + FEWEST_ROUNDS


def test_the_first_forward_of_a_turn_finds_the_caches_of_another_network_and_does_not_count(clock):
    def seconds(clock):
        ran = [name for name, _ in clock.forwards]
        return 0.004 if ran[-2:-1] != ran[-1:] else 0.001

    networks = {name: clock.network(name, seconds) for name in "ab"}
    measured = measure_latency(networks, IMAGES, batches=(1,))
    assert measured["a"]["latency_quartiles_ms"]["1"] == pytest.approx([1, 1])


def test_the_setting_names_device_and_threads():
    setting = latency_setting(torch.device("cpu"))
    assert setting["device"] == "CPU"
    assert setting["threads"] == torch.get_num_threads()

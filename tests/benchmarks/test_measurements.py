"""The benchmarks' own measurements, on networks that are too small for the numbers to mean anything."""

import math
import os

import pytest
import torch

from benchmarks import between_steps, between_workers, growth, limit
from benchmarks.result import Result, Skipped, table
from benchmarks.turns import Side
from benchmarks.workload import Workload

TINY = Workload(batch_size=8, images=72, image_size=8, stem_channels=4, members=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("measured", "interval", "verdict"),
    [
        (2, None, "yes"),
        (1, None, "NO"),
        (2, (1.6, 2.2), "yes"),
        (2, (1.2, 2.2), "undecided"),
        (1, (0.9, 1.1), "NO"),
    ],
)
def test_a_target_within_the_interval_is_neither_met_nor_missed(measured, interval, verdict):
    assert Result(5, "a ratio", measured, 1.5, interval=interval).verdict == verdict
    mirrored = None if interval is None else (-interval[1], -interval[0])
    assert Result(5, "a cost", -measured, -1.5, "smaller", interval=mirrored).verdict == verdict


def test_the_table_shows_interval_and_verdict():
    rows = [Result(5, "a ratio", 2, 1.5, interval=(1, 3), note="seen"), Skipped(3, "peers", "no network")]
    assert table(rows).splitlines()[2:] == [
        "| 5 | a ratio | 2 [1, 3] x (seen) | ≥ 1.5 x | undecided |",
        "| 3 | peers | skipped: no network | | |",
    ]


@pytest.mark.slow
def test_shares_of_the_limit_and_of_the_time_are_shares():
    cases = [TINY.changed(method="teacher")]
    results = limit.measure(cases, rounds=1)
    assert len(results) == 2
    assert all(0 < result.measured < 100 for result in results)
    shares = limit.where_time_goes(TINY, steps=1)
    within = shares.pop("of the limit in convolutions")
    assert 0 < within < 100
    assert math.isclose(sum(shares.values()), 100)


@pytest.mark.slow
def test_what_lies_between_steps_is_measured_for_teacher_and_student():
    results = between_steps.measure(TINY, rounds=1)
    assert [result.better for result in results] == ["larger", "smaller"] * 2
    assert all(result.measured > 0 for result in results)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "perturbed", "teachers"])
def test_time_and_memory_of_a_step_are_measured_in_a_process_of_its_own(what):
    seconds, mib = growth._alone(what, 2, 32, 1)
    assert seconds > 0
    assert mib > 0


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < between_workers.WORKERS, reason="a core for each worker")
@pytest.mark.parametrize("side", ["apart", pytest.param("ray", marks=pytest.mark.by_hand)])
def test_every_worker_group_takes_its_turns(side):
    commands = {
        "ray": between_workers._under_ray("teacher", 2),
        "apart": between_workers._side("apart", "teacher"),
    }
    with Side(commands[side], keeps_memory=True) as started:
        assert started.take(2, settle=1) > 0
        assert started.take(1) > 0

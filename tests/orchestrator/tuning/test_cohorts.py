"""Who waits for whom, who is stopped, and who goes on with whose networks: decisions without Ray."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.tuning.cohorts import Bracket, Cohort, brackets, exploit, explore
from orchestrator.tuning.domains import Choice, LogUniform, Uniform

WHY = "a test"


@pytest.mark.parametrize("trials", [1, 2, 5, 24, 143, 500])
def test_every_trial_is_in_one_bracket(trials: int) -> None:
    made = brackets(trials, (1, 3, 9, 27), 3)
    assert [number for bracket in made for number in bracket.numbers] == list(range(trials))


def test_a_whole_band_is_that_of_the_paper() -> None:
    """Li et al. (2018), table 1, R = 81, eta = 3: n_i and r_i of the brackets s = 4 to 0."""
    made = brackets(81 + 34 + 15 + 8 + 5, (1, 3, 9, 27), 3)
    assert [len(bracket.numbers) for bracket in made] == [81, 34, 15, 8, 5]
    assert [bracket.stops for bracket in made] == [(1, 3, 9, 27), (3, 9, 27), (9, 27), (27,), ()]
    assert made[0].kept(3) == (27, 9, 3, 1)


def test_a_bracket_never_stops_its_last_trial() -> None:
    assert Bracket(range(2), (1, 3, 9)).kept(3) == (1, 1, 1)


def test_a_cohort_is_complete_when_all_have_come_or_ended() -> None:
    cohort = Cohort({0, 1, 2}, [3, 9], [1, 1])
    assert not cohort.arrives(0, 2, 0.9)
    assert cohort.arrives(0, 3, 0.5)
    assert cohort.arrives(1, 4, 0.7)
    assert not cohort.complete  # trial 2 has not even begun
    cohort.leaves(2)
    assert cohort.complete
    assert cohort.halve() == [0]
    assert not cohort.complete
    assert cohort.stops == [9]


def test_the_score_of_a_trial_that_ended_at_the_stop_counts() -> None:
    """As of one that an earlier start of the search had stopped there."""
    cohort = Cohort({0, 1, 2, 3}, [1], [2])
    for number, score in enumerate((0.9, 0.8, 0.7, 0.6)):
        cohort.arrives(number, 1, score)
    cohort.leaves(0)
    assert cohort.halve() == [2, 3]


def test_nobody_waits_where_all_would_go_on() -> None:
    cohort = Cohort({0, 1, 2}, [1, 3, 9], [1, 1, 1])
    for number in range(3):
        assert cohort.arrives(number, 1, 0.5)
    for number in cohort.halve():
        cohort.leaves(number)
    assert not cohort.arrives(0, 3, 0.5)
    assert not cohort.arrives(0, 9, 0.5)
    assert not cohort.complete


def test_who_waits_already_is_waited_for() -> None:
    cohort = Cohort({0, 1}, [1], [1])
    assert cohort.arrives(0, 1, 0.5)
    cohort.leaves(1)
    assert cohort.complete
    assert cohort.halve() == []


def test_of_equals_the_earlier_goes_on() -> None:
    cohort = Cohort({0, 1, 2}, [1], [1])
    for number in (2, 1, 0):
        cohort.arrives(number, 1, 0.5)
    assert cohort.halve() == [1, 2]


def test_one_that_came_twice_counts_once() -> None:
    cohort = Cohort({0, 1}, [1], [1])
    cohort.arrives(0, 1, 0.5)
    cohort.arrives(0, 1, 0.5)  # its process died while it waited
    assert not cohort.complete


def test_the_worst_quarter_takes_the_networks_of_the_best() -> None:
    scores = {number: number / 10 for number in range(8)}
    clones = exploit(range(8), scores, np.random.default_rng(0))
    assert set(clones) == {0, 1}
    assert set(clones.values()) <= {6, 7}
    assert exploit([3], {3: 0.5}, np.random.default_rng(0)) == {}
    assert exploit([3, 4], {3: 0.5, 4: 0.4}, np.random.default_rng(0)) == {4: 3}


def test_what_changes_stays_inside_and_near() -> None:
    domains = {
        "a": LogUniform(log_uniform=(1.0, 8.0), reason=WHY),
        "b": Uniform(uniform=(0.0, 4.0), reason=WHY),
        "c": Choice(choice=(0.5, 0.7, 0.9), reason=WHY),
    }
    values = {"a": 7.5, "b": 2.0, "c": 0.7}
    made = [explore(domains, values, np.random.default_rng(seed)) for seed in range(400)]
    assert made == [explore(domains, values, np.random.default_rng(seed)) for seed in range(400)]
    assert all(1 <= m["a"] <= 8 and 0 <= m["b"] <= 4 and m["c"] in (0.5, 0.7, 0.9) for m in made)
    near = sum(m["b"] in (1.6, 2.4) for m in made)
    assert abs(near - 300) < 5 * math.sqrt(400 * 0.75 * 0.25)  # five standard deviations
    assert any(m["a"] == 8 for m in made)  # 7.5 times 1.2 would be outside
    assert values == {"a": 7.5, "b": 2.0, "c": 0.7}

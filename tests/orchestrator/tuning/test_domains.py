"""Domains: what is drawn lies inside, as often as it should, and the same seed draws the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.tuning.domains import Choice, Domain, Integer, LogUniform, Uniform

WHY = "a test"
DOMAINS: list[Domain] = [
    Choice(choice=("a", None, 3), reason=WHY),
    Uniform(uniform=(-1.0, 2.0), reason=WHY),
    LogUniform(log_uniform=(0.01, 100.0), reason=WHY),
    Integer(integer=(2, 5), reason=WHY),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: type(d).__name__)
def test_draws_are_inside_and_repeatable(domain: Domain) -> None:
    drawn = [domain.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert drawn == [domain.draw(np.random.default_rng(seed)) for seed in range(300)]
    if isinstance(domain, Choice):
        assert {str(value) for value in drawn} == {"a", "None", "3"}
    else:
        low, high = domain.ends
        assert all(low <= value <= high for value in drawn)


def test_half_of_a_logarithmic_domain_is_below_its_geometric_mean() -> None:
    domain, generator = LogUniform(log_uniform=(0.01, 100.0), reason=WHY), np.random.default_rng(1)
    below = sum(domain.draw(generator) < 1 for _ in range(2000))
    assert abs(below - 1000) < 5 * math.sqrt(2000) / 2  # five standard deviations


def test_grid_points_hold_the_ends() -> None:
    assert Uniform(uniform=(0.0, 4.0), reason=WHY).points(3) == [0, 2, 4]
    assert LogUniform(log_uniform=(1.0, 16.0), reason=WHY).points(3) == pytest.approx([1, 4, 16])
    assert Integer(integer=(2, 4), reason=WHY).points(9) == [2, 3, 4]
    assert Choice(choice=(1, 2), reason=WHY).points(9) == [1, 2]


def test_integers_hold_both_ends() -> None:
    generator = np.random.default_rng(0)
    domain = Integer(integer=(2, 5), reason=WHY)
    assert {domain.draw(generator) for _ in range(200)} == {2, 3, 4, 5}

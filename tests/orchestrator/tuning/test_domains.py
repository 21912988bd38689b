"""Domains: the points of a grid over them."""

from __future__ import annotations

import pytest

from orchestrator.tuning.domains import Choice, Integer, LogUniform, Uniform

WHY = "a test"


def test_grid_points_hold_the_ends() -> None:
    assert Uniform(uniform=(0.0, 4.0), reason=WHY).points(3) == [0, 2, 4]
    assert LogUniform(log_uniform=(1.0, 16.0), reason=WHY).points(3) == pytest.approx([1, 4, 16])
    assert Integer(integer=(2, 4), reason=WHY).points(9) == [2, 3, 4]
    assert Choice(choice=(1, 2), reason=WHY).points(9) == [1, 2]

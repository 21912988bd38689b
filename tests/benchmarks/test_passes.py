"""How many single-network forwards a training step costs: counted by torch, not timed."""

import pytest
import torch
from torch import nn

from benchmarks.passes import CACHED_LIMIT, LIMITS, REFERENCE, SMALL, flops, forward_equivalents
from ekd_train.settings import Speed


def test_a_forward_is_two_operations_per_multiply_and_its_backward_twice_that():
    layer, x = nn.Linear(5, 7), torch.ones(3, 5, requires_grad=True)
    forward = flops(lambda: layer(x))
    assert forward == 2 * 3 * 5 * 7
    assert flops(lambda: layer(x).sum().backward()) == 3 * forward


@pytest.mark.parametrize("kind", LIMITS)
def test_a_latent_be_step_with_four_members_costs_its_limit_and_leaves_nothing_out(kind):
    # A little less: the stem's images need no gradient.
    workload = SMALL.changed(perturbation=kind)
    assert LIMITS[kind] - 0.25 <= forward_equivalents(workload, workload.step()) <= LIMITS[kind]


def test_a_step_with_cached_teachers_costs_the_student_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = SMALL.changed(perturbation="none", augmented=False, speed=Speed(cache_teachers=True))
    assert CACHED_LIMIT - 0.25 <= forward_equivalents(cached, cached.step()) <= CACHED_LIMIT


def test_the_straightforward_formulation_costs_what_the_reference_does():
    count = forward_equivalents(SMALL, SMALL.straightforward_step())
    assert count == pytest.approx(REFERENCE, rel=0.01)

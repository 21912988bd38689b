"""Learning-rate factors at the steps where their values are known."""

import math
from itertools import pairwise

import pytest

from ekd_train.settings import Schedule
from ekd_train.training.schedule import learning_rate_factor, linear_warmup

LATENT_BE = Schedule(kind="cosine", warmup_epochs=5)
DIVERSITY_MATTERS = Schedule(kind="flat_linear", warmup_epochs=5, warmup_start=0.01)


def factor(schedule: Schedule, epoch: float, epochs: int, steps_per_epoch: int = 100) -> float:
    step = round(epoch * steps_per_epoch)
    return learning_rate_factor(schedule, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0), (1, 0.2), (2.5, 0.5), (5, 1), (5 + 195 / 3, 0.75), (5 + 195 / 2, 0.5), (200, 0), (300, 0)],
)
def test_latent_bes_recipe_warms_up_over_5_epochs_and_falls_as_a_cosine_to_0(epoch, expected):
    assert factor(LATENT_BE, epoch, epochs=200, steps_per_epoch=600) == pytest.approx(expected, abs=1e-12)


def test_the_cosine_falls_at_every_step():
    factors = [factor(LATENT_BE, epoch / 10, epochs=20, steps_per_epoch=10) for epoch in range(50, 200)]
    assert all(later < earlier for earlier, later in pairwise(factors))
    assert factors[-1] == pytest.approx((1 + math.cos(math.pi * 149 / 150)) / 2)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.01), (2.5, 0.505), (5, 1), (149, 1), (150, 1), (210, 0.505), (270, 0.01), (299, 0.01)],
)
def test_the_ods_papers_recipe_is_flat_to_150_and_linear_to_a_hundredth_at_270(epoch, expected):
    assert factor(DIVERSITY_MATTERS, epoch, epochs=300) == pytest.approx(expected)


def test_constant_is_1_after_its_warm_up():
    assert [factor(Schedule(kind="constant"), epoch, epochs=10) for epoch in (0, 5, 9.99)] == [1, 1, 1]
    assert factor(Schedule(kind="constant", warmup_epochs=2), 1, epochs=10) == 0.5


def test_steps_divide_the_rate_at_each_of_their_fractions():
    schedule = Schedule(kind="steps", decay_at=(0.5, 0.75), step_factor=0.1, warmup_epochs=1)
    found = [factor(schedule, epoch, epochs=8) for epoch in (0.5, 1, 3.99, 4, 5.99, 6, 8)]
    assert found == pytest.approx([0.5, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("kind", ["cosine", "flat_linear", "steps", "constant"])
@pytest.mark.parametrize("epochs", [1, 3, 5, 6])
def test_a_warm_up_longer_than_the_training_is_safe(kind, epochs):
    schedule = Schedule(kind=kind, warmup_epochs=5)
    factors = [factor(schedule, step / 10, epochs, steps_per_epoch=10) for step in range(10 * epochs + 1)]
    assert all(0 <= value <= 1 for value in factors)


@pytest.mark.parametrize("kind", ["cosine", "flat_linear"])
def test_training_twice_as_long_passes_the_same_factors_half_as_fast(kind):
    schedule = Schedule(kind=kind)
    for epoch in range(10):
        assert factor(schedule, epoch, epochs=10) == pytest.approx(factor(schedule, 2 * epoch, epochs=20))


def test_linear_warmup_takes_fractional_lengths():
    assert [linear_warmup(step, warmup_steps=2.5) for step in range(4)] == pytest.approx([0, 0.4, 0.8, 1])
    assert linear_warmup(0, warmup_steps=0) == 1

"""Metrics against hand computations, numpy loops, scikit-learn and scipy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, log_loss

from ekd_train.metrics import (
    accuracy,
    all_metrics,
    apply_temperature,
    brier,
    ece,
    fit_temperature,
    nll,
)

METRICS = [accuracy, nll, ece, brier]


def predictions(count: int = 400, classes: int = 5, sharpness: float = 1.0, seed: int = 0):
    """Probabilities with labels drawn from them, and then made `sharpness` times as confident."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator).squeeze(1)
    return torch.softmax(sharpness * logits, dim=-1), labels


def test_two_images_by_hand():
    probs, labels = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).double(), torch.tensor([0, 1])
    assert accuracy(probs, labels) == 0.5  # of tied classes the first counts as predicted
    assert nll(probs, labels) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, rel=1e-7)
    assert brier(probs, labels) == pytest.approx((2 * 0.25**2 + 2 * 0.5**2) / 2)
    # alone in their bins: |1 - 0.75| and |0 - 0.5|, each of weight 1/2
    assert ece(probs, labels) == pytest.approx((0.25 + 0.5) / 2)


def test_accuracy_nll_and_brier_agree_with_scikit_learn_and_numpy():
    probs, labels = predictions()
    assert accuracy(probs, labels) == accuracy_score(labels, probs.argmax(dim=1))
    assert nll(probs, labels) == pytest.approx(log_loss(labels, probs.numpy()), rel=1e-6)
    squares = (probs.numpy() - np.eye(5)[labels.numpy()]) ** 2
    assert brier(probs, labels) == pytest.approx(squares.sum() / len(labels))


def ece_by_loops(probs: np.ndarray, labels: np.ndarray) -> float:
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for low, high in pairwise(edges):
        inside = [i for i in range(len(probs)) if low < probs[i].max() <= high]
        if inside:
            right = np.mean([probs[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([probs[i].max() for i in inside])
            total += len(inside) / len(probs) * abs(right - confidence)
    return total


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_ece_agrees_with_loops_over_fifteen_bins(sharpness):
    probs, labels = predictions(sharpness=sharpness)
    assert ece(probs, labels) == pytest.approx(ece_by_loops(probs.numpy(), labels.numpy()), rel=1e-12)


def test_bins_are_open_below_and_closed_above():
    # 0.6 = 9/15 is the top of its bin, and 0.62 is in the next: not averaged with each other.
    probs = torch.tensor([[0.6, 0.4], [0.62, 0.38]]).double()
    probs[0] = torch.tensor([np.linspace(0, 1, 16)[9], 1 - np.linspace(0, 1, 16)[9]])
    assert ece(probs, torch.tensor([0, 1])) == pytest.approx((0.4 + 0.62) / 2)
    # 0.62 and 0.65 share one: their surpluses cancel in part.
    probs[0] = torch.tensor([0.65, 0.35])
    assert ece(probs, torch.tensor([0, 1])) == pytest.approx(abs(-0.35 + 0.62) / 2)


def test_certain_predictions_are_scored_at_the_ends_of_every_scale():
    probs = torch.eye(4).double()
    right, wrong = torch.arange(4), torch.arange(4).roll(1)
    assert [metric(probs, right) for metric in METRICS] == pytest.approx([1, 0, 0, 0], abs=1e-7)
    assert [metric(probs, wrong) for metric in METRICS] == pytest.approx([0, -math.log(1e-8), 1, 2])


def test_metrics_are_computed_in_float64():
    probs, labels = predictions()
    assert all(metric(probs.float(), labels) == metric(probs.float().double(), labels) for metric in METRICS)


def test_temperature_divides_log_probabilities():
    logits = torch.randn(6, 4, dtype=torch.float64)
    probs = torch.softmax(logits, dim=-1)
    torch.testing.assert_close(apply_temperature(probs, 2.5), torch.softmax(logits / 2.5, dim=-1))
    assert torch.equal(apply_temperature(probs, 1.0), probs)


def test_temperature_leaves_impossible_classes_impossible():
    calibrated = apply_temperature(torch.tensor([[0.0, 0.2, 0.8]]), 3.0)
    assert calibrated[0, 0] == 0
    assert calibrated.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("sharpness", [0.2, 0.5, 1.0, 2.0, 6.0])
def test_the_fitted_temperature_is_scipys_minimum(sharpness):
    probs, labels = predictions(sharpness=sharpness)
    found = minimize_scalar(
        lambda t: nll(apply_temperature(probs, math.exp(t)), labels),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-9},
    )
    temperature = fit_temperature(probs, labels)
    assert temperature == pytest.approx(math.exp(found.x), rel=1e-4)
    assert nll(apply_temperature(probs, temperature), labels) <= found.fun + 1e-12


def test_fitting_recovers_the_sharpness_that_was_put_in():
    probs, labels = predictions(count=20_000, sharpness=3.0)
    assert fit_temperature(probs, labels) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_fitted_temperature_is_never_worse_than_none_on_its_own_images(count, seed):
    probs, labels = predictions(count=count, seed=seed)
    temperature = fit_temperature(probs, labels)
    assert nll(apply_temperature(probs, temperature), labels) <= nll(probs, labels)
    assert temperature == fit_temperature(probs, labels)


def test_certain_predictions_have_a_finite_temperature():
    probs = torch.eye(4).double()
    assert fit_temperature(probs, torch.arange(4)) == 1.0  # every temperature is as good
    assert fit_temperature(probs, torch.arange(4).roll(1)) == 1.0
    assert fit_temperature(0.9 * probs + 0.025, torch.arange(4)) == pytest.approx(
        0.1, abs=0.1
    )  # a bound, not 0


def test_all_metrics_has_calibrated_ones_only_with_a_temperature():
    probs, labels = predictions(sharpness=3.0)
    plain = all_metrics(probs, labels)
    assert plain == {metric.__name__: metric(probs, labels) for metric in METRICS}
    calibrated = apply_temperature(probs, 3.0)
    assert all_metrics(probs, labels, temperature=3.0) == plain | {
        "cnll": nll(calibrated, labels),
        "cece": ece(calibrated, labels),
    }


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), r"must be \(b, c\)"),
        (torch.ones(3) / 3, torch.zeros(3).long(), r"must be \(b, c\)"),
        (torch.ones(2, 3) / 3, torch.zeros(3).long(), "labels must be 2 integers"),
        (torch.ones(2, 3) / 3, torch.zeros(2), "labels must be 2 integers"),
        (torch.ones(2, 3) / 3, torch.tensor([0, 3]), r"labels must be in \[0, 3\)"),
        (torch.ones(2, 3) / 3, torch.tensor([0, -1]), r"labels must be in \[0, 3\)"),
        (torch.tensor([[3.0, -1.0]]), torch.tensor([0]), "are these logits"),
        (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), "are these logits"),
        (torch.tensor([[float("nan"), 0.5]]), torch.tensor([0]), "are these logits"),
    ],
)
@pytest.mark.parametrize("metric", [*METRICS, fit_temperature])
def test_what_is_not_a_set_of_predictions_is_refused(metric, probs, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probs, labels)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        apply_temperature(torch.ones(2, 3) / 3, temperature)

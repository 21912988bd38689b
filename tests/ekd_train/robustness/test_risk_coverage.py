"""Risk and coverage, by their definition and by what they must be."""

from itertools import permutations

import pytest
import torch

from ekd_train.metrics import accuracy
from ekd_train.robustness.risk_coverage import aurc, excess_aurc, risk_coverage


def predictions(images=200, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1
    return logits.softmax(-1).double(), labels


def test_each_risk_is_the_error_of_the_surest_images():
    probs, labels = predictions()
    surest = probs.amax(-1).argsort(descending=True)
    risk = risk_coverage(probs, labels)
    for count in (1, 7, 100, 200):
        chosen = surest[:count]
        assert risk[count - 1].item() == pytest.approx(1 - accuracy(probs[chosen], labels[chosen]))


def test_at_full_coverage_the_risk_is_the_error():
    probs, labels = predictions()
    assert risk_coverage(probs, labels)[-1].item() == pytest.approx(1 - accuracy(probs, labels))


def test_equally_sure_images_count_as_the_mean_over_all_their_orders():
    probs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.7, 0.3], [0.6, 0.4]]).double()
    labels = torch.tensor([0, 1, 0, 0, 1])
    wrong = (probs.argmax(-1) != labels).double()
    counts = torch.arange(1, 6)
    curves = [wrong[[0, *order, 4]].cumsum(0) / counts for order in permutations((1, 2, 3))]
    assert torch.allclose(risk_coverage(probs, labels), torch.stack(curves).mean(0))


def test_the_order_of_the_images_does_not_matter():
    probs, labels = predictions()
    probs = (probs * 20).round() / 20  # many are equally sure
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(risk_coverage(probs, labels), risk_coverage(probs[shuffled], labels[shuffled]))


def test_the_area_is_the_mean_of_the_risks():
    probs, labels = predictions()
    surest = probs.amax(-1).argsort(descending=True)
    errors = [(probs[surest[:k]].argmax(-1) != labels[surest[:k]]).double().mean() for k in range(1, 201)]
    assert aurc(risk_coverage(probs, labels)) == pytest.approx(torch.stack(errors).mean().item(), abs=1e-12)


def test_errors_that_all_come_last_have_no_excess_and_errors_that_come_first_have_much():
    labels = torch.zeros(10).long()
    right, wrong = [0.6, 0.4], [0.45, 0.55]
    last = torch.tensor([right] * 7 + [wrong] * 3).double()
    first = torch.tensor([right] * 7 + [[0.1, 0.9]] * 3).double()
    assert excess_aurc(risk_coverage(last, labels)) == pytest.approx(0)
    assert excess_aurc(risk_coverage(first, labels)) > 0.3


def test_a_perfect_predictor_has_no_risk():
    assert aurc(risk_coverage(torch.eye(3).double(), torch.arange(3))) == 0


def test_nothing_is_refused():
    with pytest.raises(ValueError, match=r"\(n, c\)"):
        risk_coverage(torch.zeros(0, 3), torch.zeros(0))

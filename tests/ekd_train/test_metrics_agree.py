"""Our metrics against other people's implementations of the same definitions."""

import pytest
import torch

from ekd_train.metrics import ECE_BINS, PROB_FLOOR, accuracy, brier, ece, nll

functional = pytest.importorskip("torchmetrics.functional.classification", reason="needs the extra `dev`")
sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture(scope="module", params=[(500, 3), (1000, 10), (400, 100)], ids=str)
def predictions(request):
    images, classes = request.param
    generator = torch.Generator().manual_seed(images)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64) * 2
    logits[torch.arange(images), labels] += 2
    return logits.softmax(-1), labels


def test_accuracy_is_torchmetrics(predictions):
    probs, labels = predictions
    theirs = functional.multiclass_accuracy(probs, labels, num_classes=probs.shape[1], average="micro")
    assert accuracy(probs, labels) == pytest.approx(theirs.item(), abs=1e-6)


def test_ece_is_torchmetrics(predictions):
    probs, labels = predictions
    theirs = functional.multiclass_calibration_error(
        probs, labels, num_classes=probs.shape[1], n_bins=ECE_BINS, norm="l1"
    )
    assert ece(probs, labels) == pytest.approx(theirs.item(), abs=1e-6)


def test_nll_is_sklearns_log_loss_but_for_our_floor(predictions):
    """-log(p + floor) = -log p - log(1 + floor / p): the floor is part of our definition alone."""
    probs, labels = predictions
    theirs = sklearn_metrics.log_loss(labels, probs, labels=range(probs.shape[1]))
    floor = torch.log1p(PROB_FLOOR / probs.gather(1, labels[:, None])).mean().item()
    assert floor < 1e-4
    assert nll(probs, labels) == pytest.approx(theirs - floor, abs=1e-6)


def test_brier_is_sklearns_for_two_classes(predictions):
    """scikit-learn scores the second class alone; summed over both classes it is twice that."""
    probs, labels = predictions
    second = probs[:, 1] / probs[:, :2].sum(-1)
    two, is_second = torch.stack([1 - second, second], 1), (labels == 1).long()
    theirs = sklearn_metrics.brier_score_loss(is_second, second)
    assert brier(two, is_second) == pytest.approx(2 * theirs, abs=1e-6)

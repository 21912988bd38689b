"""Our metrics against other people's implementations of the same definitions, or against plain loops."""

import numpy as np
import pytest
import sklearn.metrics as sklearn_metrics
import torch

from ekd_train.class_metrics import class_metrics, recall_per_class
from ekd_train.metrics import ECE_BINS, PROB_FLOOR, accuracy, all_metrics, brier, ece, fit_temperature, nll
from ekd_train.robustness.evaluate import mean_corruption_error
from ekd_train.robustness.risk_coverage import aurc, excess_aurc, risk_coverage

torchmetrics = pytest.importorskip("torchmetrics.functional", reason="needs the extra `dev`")
functional = torchmetrics.classification


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


def test_metrics_that_count_every_class_alike_are_torchmetrics(predictions):
    probs, labels = predictions
    classes = probs.shape[1]
    kept = labels % 3 != 2  # imbalance; of some classes only predictions are left, or nothing
    probs, labels = probs[kept], labels[kept]
    theirs = {
        "balanced_accuracy": functional.multiclass_accuracy(probs, labels, classes, average="macro"),
        "macro_f1": functional.multiclass_f1_score(probs, labels, classes, average="macro"),
    }
    if classes > 10:
        theirs["top5_accuracy"] = functional.multiclass_accuracy(
            probs, labels, classes, average="micro", top_k=5
        )
    assert class_metrics(probs, labels) == pytest.approx({k: v.item() for k, v in theirs.items()}, abs=1e-6)


def test_recall_per_class_is_torchmetrics_and_none_for_a_class_without_images(predictions):
    probs, labels = predictions
    kept = labels != 1
    ours = recall_per_class(probs[kept], labels[kept])
    theirs = functional.multiclass_recall(probs[kept], labels[kept], probs.shape[1], average="none")
    assert ours[1] is None
    present = sorted(set(labels[kept].tolist()))
    assert [ours[c] for c in present] == pytest.approx(theirs[present].tolist(), abs=1e-6)


def test_ece_is_torchmetrics(predictions):
    probs, labels = predictions
    theirs = functional.multiclass_calibration_error(
        probs, labels, num_classes=probs.shape[1], n_bins=ECE_BINS, norm="l1"
    )
    assert ece(probs, labels) == pytest.approx(theirs.item(), abs=1e-6)


def log_perplexity(logits, labels):
    """torchmetrics' perplexity of sentences of one word is the exponential of the NLL."""
    return torchmetrics.text.perplexity(logits[:, None], labels[:, None]).log().item()


def added_floor(probs, labels):
    """-log(p + floor) = -log p - log(1 + floor / p): by the last term our definition is below theirs."""
    return torch.log1p(PROB_FLOOR / probs.gather(1, labels[:, None])).mean().item()


def test_nll_is_sklearns_and_torchmetrics_but_for_our_floor(predictions):
    probs, labels = predictions
    floor = added_floor(probs, labels)
    assert floor < 1e-4
    log_loss = sklearn_metrics.log_loss(labels, probs, labels=range(probs.shape[1]))
    assert nll(probs, labels) == pytest.approx(log_loss - floor, abs=1e-6)
    assert nll(probs, labels) == pytest.approx(log_perplexity(probs.log(), labels) - floor, abs=1e-6)


def test_the_floor_spares_sharp_predictions_what_torchmetrics_charges_them(predictions):
    """With all logits 10 times as far apart some labels have less than 1e-8, and the two are far apart."""
    probs, labels = predictions
    sharp = 10 * probs.log()
    theirs, floor = log_perplexity(sharp, labels), added_floor(sharp.softmax(-1), labels)
    assert floor > 0.1
    assert nll(sharp.softmax(-1), labels) == pytest.approx(theirs - floor, abs=1e-6)


def test_calibrated_nll_and_ece_are_torchmetrics_of_the_scaled_logits(predictions):
    probs, labels = predictions
    half = len(labels) // 2
    sharp = (3 * probs.log()).softmax(-1)
    temperature = fit_temperature(sharp[:half], labels[:half])
    assert temperature > 1.5
    ours = all_metrics(sharp[half:], labels[half:], temperature)
    logits = 3 * probs[half:].log() / temperature
    floor = added_floor(logits.softmax(-1), labels[half:])
    assert ours["cnll"] == pytest.approx(log_perplexity(logits, labels[half:]) - floor, abs=1e-6)
    theirs = functional.multiclass_calibration_error(
        logits.softmax(-1), labels[half:], num_classes=probs.shape[1], n_bins=ECE_BINS, norm="l1"
    )
    assert ours["cece"] == pytest.approx(theirs.item(), abs=1e-6)


def test_brier_is_torchmetrics_mean_squared_error_summed_over_classes(predictions):
    probs, labels = predictions
    one_hot = torch.nn.functional.one_hot(labels, probs.shape[1]).double()
    theirs = probs.shape[1] * torchmetrics.mean_squared_error(probs, one_hot)
    assert brier(probs, labels) == pytest.approx(theirs.item(), abs=1e-6)


def test_the_risk_coverage_area_is_the_sum_over_errors_of_harmonic_weights(predictions):
    """An error in place r of n counts in every coverage from r on: `Σ_{k=r..n} 1/k`, over n."""
    probs, labels = (values.numpy() for values in predictions)
    ranked = np.argsort(-probs.max(1), kind="stable")
    places = 1 + np.flatnonzero((probs.argmax(1) != labels)[ranked])
    count = len(labels)

    def area(places):
        return sum(sum(1 / k for k in range(place, count + 1)) for place in places) / count

    risk = risk_coverage(*predictions)
    last = range(count - len(places) + 1, count + 1)
    assert aurc(risk) == pytest.approx(area(places), abs=1e-6)
    assert excess_aurc(risk) == pytest.approx(area(places) - area(last), abs=1e-6)


def test_the_mean_corruption_error_is_a_ratio_of_sums_averaged_over_corruptions():
    generator = np.random.default_rng(0)
    errors, baseline = generator.uniform(0.1, 0.9, (2, 15, 5))
    ours = mean_corruption_error(dict(enumerate(errors.tolist())), dict(enumerate(baseline.tolist())))
    assert ours == pytest.approx((errors.sum(1) / baseline.sum(1)).mean(), abs=1e-6)


def test_brier_is_sklearns_for_two_classes(predictions):
    """scikit-learn scores the second class alone; summed over both classes it is twice that."""
    probs, labels = predictions
    second = probs[:, 1] / probs[:, :2].sum(-1)
    two, is_second = torch.stack([1 - second, second], 1), (labels == 1).long()
    theirs = sklearn_metrics.brier_score_loss(is_second, second)
    assert brier(two, is_second) == pytest.approx(2 * theirs, abs=1e-6)

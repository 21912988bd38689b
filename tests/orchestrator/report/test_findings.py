import pytest
import torch

from ekd_train.evaluation.bootstrap import Interval
from ekd_train.metrics import ece
from orchestrator.report import findings as module
from orchestrator.report.findings import Findings

from .conftest import make_evidence


@pytest.fixture(scope="module")
def findings(evidence):
    return Findings(evidence)


def test_the_bins_of_the_reliability_diagram_add_up_to_the_ece(evidence, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_IN_A_BIN", 1)
    bins = Findings(evidence).reliability("averaged", calibrated=False)
    total = sum(s * abs(a - c) for s, a, c in zip(bins.share, bins.accuracy, bins.confidence, strict=True))
    assert total == pytest.approx(ece(evidence.probs("averaged"), evidence.labels()))
    assert sum(bins.share) == pytest.approx(1)


def test_confusion_counts_every_test_image_once(findings, evidence):
    labels, predicted = evidence.labels(), evidence.probs("averaged").argmax(-1)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, prediction in zip(labels.tolist(), predicted.tolist(), strict=True):
        expected[label, prediction] += 1
    assert torch.equal(findings.confusion, expected)


def test_the_worst_confusions_come_first_and_hits_never():
    evidence = make_evidence(3, names=["cat", "dog", "hen"])
    probs = torch.eye(3)[evidence.labels()].unsqueeze(0).clone()
    cats = (evidence.labels() == 0).nonzero().flatten()
    probs[0, cats[:10]] = torch.eye(3)[1]
    probs[0, cats[10:12]] = torch.eye(3)[2]
    evidence.tensors["test/averaged"] = probs
    assert Findings(evidence).worst_confusions() == [("cat", "dog", 10, 0.25), ("cat", "hen", 2, 0.05)]


def test_the_control_has_no_difference_to_itself(findings):
    assert findings.row("control").to_control == {}
    assert findings.row("ensemble").to_ensemble == {}
    assert set(findings.row("averaged").to_control) == {"accuracy", "nll", "ece", "brier", "cnll", "cece"}


def test_every_interval_is_about_the_value_that_the_summary_has(findings, evidence):
    for row in findings.rows:
        test = evidence.predictors[row.name].test
        shown = {metric: interval.value for metric, interval in row.intervals.items()}
        assert shown | findings.class_metrics[row.name] == pytest.approx(test)


def test_the_classes_recognised_least_come_first_and_those_without_images_never():
    evidence = make_evidence(4, names=["cat", "dog", "hen", "yak"])
    labels = evidence.labels()
    labels[labels == 3] = 0
    evidence.tensors["test/averaged"] = torch.eye(4)[labels.where(labels != 2, 1)][None]
    assert Findings(evidence).worst_recalls() == [("hen", 0.0, 30), ("cat", 1.0, 60), ("dog", 1.0, 30)]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.02, 0.01, 0.03), "+2.0 points [+1.0, +3.0] above"),
        (Interval(-0.02, -0.03, -0.01), "−2.0 points [−3.0, −1.0] below"),
        (Interval(0.01, -0.01, 0.03), "+1.0 points [−1.0, +3.0], not distinguishable from"),
    ],
)
def test_the_verdict_is_no_bolder_than_its_interval(interval, words):
    assert module._compared(interval) == words


def test_the_verdict_names_cost_control_and_ensemble(findings):
    assert findings.headline.startswith("One network at 50 % of the ensemble's cost reaches")
    assert "the control" in findings.headline
    nll = findings.row("averaged").to_ensemble["nll"]
    ends = f"[{module.signed(nll.low, 3)}, {module.signed(nll.high, 3)}]"
    assert findings.headline.endswith(f"the ensemble (NLL {module.signed(nll.value, 3)} {ends}).")

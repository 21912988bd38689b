"""Scores and their figures of merit, against scikit-learn and torchmetrics."""

import math

import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from ekd_train.evaluation.bootstrap import draw_counts
from ekd_train.robustness.ood_detection import (
    MERITS,
    SCORES,
    BootstrapOfDetection,
    _Ranked,
    auroc,
    fpr_at_95,
    unsureness,
)


def two_sets(seed, ties=False):
    generator = torch.Generator().manual_seed(seed)
    inside, outside = (torch.randn(n, generator=generator).double() for n in (203, 131))
    outside += 1
    return ((inside * 3).round(), (outside * 3).round()) if ties else (inside, outside)


def outside_is_positive(inside, outside):
    return torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))]).int(), torch.cat([inside, outside])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_scikit_learns_and_torchmetrics(seed, ties):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    inside, outside = two_sets(seed, ties)
    truth, scores = outside_is_positive(inside, outside)
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    # torchmetrics takes what is outside [0, 1] for logits.
    between = (scores - scores.min()) / (scores.max() - scores.min())
    assert auroc(inside, outside) == pytest.approx(torchmetrics.binary_auroc(between, truth).item(), abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_false_positive_rate_is_that_of_scikit_learns_roc_curve(seed, ties):
    inside, outside = two_sets(seed, ties)
    truth, scores = outside_is_positive(inside, outside)
    fpr, tpr, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert fpr_at_95(inside, outside) == pytest.approx(fpr[tpr >= 0.95].min(), abs=1e-9)


def test_the_false_positive_rate_is_torchmetrics_specificity_at_sensitivity():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    inside, outside = two_sets(0)
    truth, scores = outside_is_positive(inside, outside)
    accepted = torch.sigmoid(-scores)
    specificity, _ = torchmetrics.binary_specificity_at_sensitivity(accepted, 1 - truth, 0.95)
    assert fpr_at_95(inside, outside) == pytest.approx(1 - specificity.item(), abs=1e-6)


def test_exactly_95_of_100_known_images_are_accepted():
    known = torch.arange(100.0)
    assert fpr_at_95(known, torch.tensor([94.0, 94.5, 95.0])) == pytest.approx(1 / 3)


def test_sets_far_apart_are_told_apart_perfectly_and_equal_ones_by_chance():
    low, high = torch.arange(10.0), torch.arange(10.0) + 100
    assert (auroc(low, high), fpr_at_95(low, high)) == (1.0, 0.0)
    assert auroc(high, low) == 0.0
    assert auroc(low, low) == 0.5


def test_scores_of_certain_and_of_even_probabilities():
    certain, even = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    assert unsureness(certain)["entropy"].item() == 0
    assert unsureness(even)["entropy"].item() == pytest.approx(math.log(2))
    assert unsureness(even)["max_probability"].item() == 0.5


def test_members_that_contradict_each_other_disagree_and_members_unsure_together_do_not():
    contradiction = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert unsureness(contradiction)["disagreement"].item() == pytest.approx(math.log(2))
    assert unsureness(torch.full((2, 1, 2), 0.5))["disagreement"].item() == pytest.approx(0, abs=1e-12)


def test_disagreement_is_the_mean_divergence_from_the_pooled_prediction():
    probs = torch.rand(4, 30, 5, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    pooled = probs.mean(0, keepdim=True)
    divergence = (probs * (probs.log() - pooled.log())).sum(-1).mean(0)
    assert torch.allclose(unsureness(probs)["disagreement"], divergence, atol=1e-12)


def test_a_single_network_has_no_disagreement():
    assert set(SCORES) - set(unsureness(torch.rand(1, 3, 4).softmax(-1))) == {"disagreement"}
    assert tuple(unsureness(torch.rand(2, 3, 4).softmax(-1))) == SCORES


def test_no_images_and_unknown_scores_are_refused():
    with pytest.raises(ValueError, match="not empty"):
        auroc(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match="NaN"):
        fpr_at_95(torch.tensor([float("nan")]), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(s, n, c\)"):
        unsureness(torch.rand(3, 4))


def resampled(scores, counts):
    """`scores` as often as `counts` says."""
    return scores.repeat_interleave(counts.long())


@pytest.mark.parametrize("ties", [False, True])
def test_merits_of_a_resample_are_those_of_the_resampled_images(ties):
    inside, outside = two_sets(0, ties)
    generator = torch.Generator().manual_seed(5)
    known, foreign = (draw_counts(7, len(of), generator) for of in (inside, outside))
    areas, rates = _Ranked(inside, outside).merits(known, foreign)
    for area, rate, often, others in zip(areas, rates, known, foreign, strict=True):
        one, other = resampled(inside, often), resampled(outside, others)
        assert area.item() == pytest.approx(auroc(one, other), abs=1e-12)
        assert rate.item() == pytest.approx(fpr_at_95(one, other), abs=1e-12)


def test_intervals_of_the_auroc_are_scipys_bootstrap():
    inside, outside = two_sets(3)
    boot = BootstrapOfDetection({"a": inside}, {"a": outside}, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (inside.numpy(), outside.numpy()),
        lambda known, foreign: auroc(torch.as_tensor(known), torch.as_tensor(foreign)),
        vectorized=False,
        n_resamples=20_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    found = boot.of("a", "auroc")
    assert found.value == pytest.approx(auroc(inside, outside))
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.003)
    assert boot.of("a", "fpr_at_95").value == fpr_at_95(inside, outside)


def test_memory_bounds_do_not_change_the_intervals(monkeypatch):
    inside, outside = two_sets(0)
    found = BootstrapOfDetection({"a": inside}, {"a": outside}, resamples=200)
    monkeypatch.setattr("ekd_train.evaluation.bootstrap.COUNTS_AT_ONCE", 7 * 203)
    again = BootstrapOfDetection({"a": inside}, {"a": outside}, resamples=200)
    for merit in MERITS:
        assert again.of("a", merit) == found.of("a", merit)


def test_differences_between_predictors_are_paired():
    inside, outside = two_sets(0)
    sharper = {"a": (inside, outside), "b": (inside, outside + 0.2)}
    boot = BootstrapOfDetection({n: s[0] for n, s in sharper.items()}, {n: s[1] for n, s in sharper.items()})
    difference, alone = boot.difference("b", "a", "auroc"), boot.of("a", "auroc")
    assert difference.excludes_zero
    assert difference.high - difference.low < (alone.high - alone.low) / 2
    again = BootstrapOfDetection({"a": inside}, {"a": outside})
    assert again.of("a", "auroc") == alone

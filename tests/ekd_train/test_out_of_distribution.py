"""Scores and their figures of merit, against scikit-learn and torchmetrics."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from ekd_train.out_of_distribution import auroc, fpr_at_95, unsureness


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
    assert "disagreement" not in unsureness(torch.rand(1, 3, 4).softmax(-1))


def test_no_images_and_unknown_scores_are_refused():
    with pytest.raises(ValueError, match="not empty"):
        auroc(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match="NaN"):
        fpr_at_95(torch.tensor([float("nan")]), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(s, n, c\)"):
        unsureness(torch.rand(3, 4))

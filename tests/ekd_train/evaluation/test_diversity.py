"""Diversity against loops over pairs."""

from itertools import permutations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from ekd_train.evaluation.diversity import diversity


def probabilities(members: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.softmax(torch.randn(members, 50, 4, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("members", [2, 3, 5])
def test_it_is_the_mean_over_ordered_pairs(members):
    probs = probabilities(members)
    pairs = list(permutations(probs, 2))
    kl = torch.stack([kl_divergence(Categorical(p), Categorical(q)).mean() for p, q in pairs]).mean()
    same = torch.stack([(p.argmax(-1) == q.argmax(-1)).double().mean() for p, q in pairs]).mean()
    measured = diversity(probs)
    assert set(measured) == {"pairwise_kl", "agreement"}
    assert measured["pairwise_kl"] == pytest.approx(kl.item(), rel=1e-6)
    assert measured["agreement"] == pytest.approx(same.item())


def test_identical_members_do_not_differ():
    measured = diversity(probabilities(1).expand(4, -1, -1))
    assert measured["pairwise_kl"] == pytest.approx(0, abs=1e-12)
    assert measured["pairwise_kl"] >= 0
    assert measured["agreement"] == 1


def test_the_order_of_members_does_not_matter():
    probs = probabilities(4)
    assert diversity(probs) == pytest.approx(diversity(probs.flip(0)))


def test_opposite_certainties_are_finite():
    measured = diversity(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert measured == pytest.approx({"pairwise_kl": 18.42, "agreement": 0.0}, abs=0.01)


def test_one_member_has_no_diversity_rather_than_a_diversity_of_zero():
    assert diversity(probabilities(1)) == {}


@pytest.mark.parametrize("shape", [(4, 5), (2, 0, 5), (0, 4, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(s, b, c\)"):
        diversity(torch.ones(shape))

"""PAPA: networks apart, pulled toward their mean, and averaged."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ekd_train.models.papa import Papa
from ekd_train.objectives import Predictions, build_objective
from ekd_train.settings import Distillation


def networks(count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double() for _ in range(count)]


IMAGES, LABELS = torch.rand(8, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def weights(papa: Papa) -> list[torch.Tensor]:
    return [network[0].weight.detach().clone() for network in papa.networks]


def test_a_pull_leaves_the_mean_where_it_is_and_brings_every_network_nearer_by_its_rate():
    papa = Papa(networks(), rate=0.3)
    before = torch.stack(weights(papa))
    papa.pull(torch.tensor(True))
    after, mean = torch.stack(weights(papa)), before.mean(0)
    torch.testing.assert_close(after.mean(0), mean)
    torch.testing.assert_close(after - mean, 0.7 * (before - mean), rtol=1e-12, atol=1e-15)


def test_it_pulls_before_every_so_many_steps_and_whatever_is_computed_between_them_does_nothing():
    papa = Papa(networks(), every=2, rate=0.5)
    pulled = []
    for step in range(6):
        before = weights(papa)
        papa.eval()(IMAGES)
        papa.begin_step()
        for _ in range(3):  # parts of one batch
            papa.train()(IMAGES)
        if not torch.equal(before[0], weights(papa)[0]):
            pulled.append(step)
    assert pulled == [2, 4]


def test_one_that_is_continued_pulls_when_it_would_have():
    papa = Papa(networks(), every=2)
    papa.begin_step()
    papa.begin_step()
    continued = Papa(networks(), every=2)
    continued.load_state_dict(copy.deepcopy(papa.state_dict()))
    for each in (papa, continued):
        each.begin_step()
    assert all(map(torch.equal, weights(continued), weights(papa)))


def test_every_network_learns_from_its_own_labels_as_if_it_were_alone():
    papa = Papa(networks())
    build_objective("papa", Distillation())(Predictions(LABELS, papa.train()(IMAGES)))["loss"].backward()
    for network, alone in zip(papa.networks, networks(), strict=True):
        cross_entropy(alone.train()(IMAGES), LABELS).backward()
        for ours, theirs in zip(network.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_average_has_the_mean_of_weights_and_statistics_and_of_equal_networks_is_one_of_them():
    papa = Papa(networks())
    papa.train()(IMAGES)
    averaged = papa.averaged().state_dict()
    for name, tensor in averaged.items():
        states = [network.state_dict()[name] for network in papa.networks]
        torch.testing.assert_close(tensor, torch.stack(states).double().mean(0).to(tensor.dtype))
    one = networks(1)[0]
    torch.testing.assert_close(Papa([one, copy.deepcopy(one)]).averaged()(IMAGES), one(IMAGES))


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="at least one network"):
        Papa([])

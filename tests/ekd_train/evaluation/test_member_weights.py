"""Weights of members in an average that are picked on validation images."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from training_runs import made_up_images, student_run

from ekd_train.data.augment import as_float
from ekd_train.data.description import ImageSpec
from ekd_train.evaluation.member_weights import PICKS, member_weights, picked
from ekd_train.models.build_network import build_network
from ekd_train.models.papa import Papa

IMAGES = made_up_images(40, seed=4)


def plain() -> nn.Module:
    run = student_run("kd")
    return build_network(run, ImageSpec(num_classes=3, image_shape=(1, 8, 8))).eval()


def loss(network: nn.Module) -> float:
    with torch.no_grad():
        return cross_entropy(network.eval()(as_float(IMAGES.images)), IMAGES.labels).item()


def taught(network: nn.Module) -> nn.Module:
    """`network` after a few steps on the very images: better than any that was drawn."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(30):
        optimiser.zero_grad()
        cross_entropy(network(as_float(IMAGES.images)), IMAGES.labels).backward()
        optimiser.step()
    return network


def test_a_member_that_learned_nothing_does_not_count():
    torch.manual_seed(0)
    good = taught(plain())
    bad = [plain() for _ in range(3)]
    assert loss(good) < 0.5 < min(map(loss, bad))
    assert member_weights(Papa([bad[0], good, *bad[1:]]), IMAGES) == (0, 1, 0, 0)


def test_they_are_never_worse_on_validation_images_than_the_mean():
    torch.manual_seed(1)
    start = plain()
    members = [taught(start), start, plain()]
    student = Papa(members)
    weights = member_weights(student, IMAGES)
    assert sum(weights) == pytest.approx(1)
    assert loss(student.averaged(torch.tensor(weights))) <= loss(student.averaged()) + 1e-6


def test_equal_members_count_alike():
    one = taught(plain())
    assert member_weights(Papa([one, copy.deepcopy(one)]), IMAGES) == (0.5, 0.5)


def test_a_plain_network_has_none():
    assert member_weights(plain(), IMAGES) is None


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0.25, 0.75, 0), (0.375, 0.5, 0.125), (1 / 3, 1 / 3, 1 / 3)])
def test_what_the_picks_can_reach_of_a_convex_loss_is_reached(wanted):
    """Of a squared distance, by steps of 1 / n as Frank and Wolfe take them."""
    target = torch.tensor(wanted)

    def distance(weights: Tensor) -> float:
        return float((weights - target).square().sum())

    found = picked(3, distance)
    assert found.sum() == pytest.approx(1)
    assert distance(found) <= 2 / PICKS**2

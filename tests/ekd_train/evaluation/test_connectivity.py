"""The loss between members and their average, against networks that are mixed by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from training_runs import made_up_images, student_run

from ekd_train.data.augment import as_float
from ekd_train.data.description import ImageSpec
from ekd_train.evaluation.connectivity import POINTS, connectivity
from ekd_train.models.build_network import build_network
from ekd_train.models.papa import Papa
from ekd_train.persistence.records import Connectivity

IMAGES = made_up_images(11, seed=4)


def members(method: str) -> nn.Module:
    torch.manual_seed(0)
    spec = ImageSpec(num_classes=3, image_shape=(1, 8, 8))
    network = build_network(student_run(method, members=3), spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("method", ["latent_be", "lora", "ekd", "papa"])
def test_a_weight_of_one_is_the_member_and_equal_weights_are_the_average(method):
    network, images = members(method), as_float(IMAGES.images)
    for member in range(3):
        alone = network.averaged(torch.eye(3)[member]).eval()
        torch.testing.assert_close(alone(images), network(images)[member], rtol=1e-4, atol=1e-5)
    equal = network.averaged(torch.full((3,), 1 / 3)).eval()
    torch.testing.assert_close(equal(images), network.averaged().eval()(images), rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_networks_mixed_by_hand():
    network = members("papa")
    found = connectivity(network, IMAGES.images, IMAGES.labels)
    assert (len(found.between), len(found.to_average), found.images) == (3, 3, 11)
    for point, loss in zip(POINTS, found.between[1], strict=True):
        mixed = copy.deepcopy(network.networks[1])
        for own, other in zip(mixed.parameters(), network.networks[2].parameters(), strict=True):
            own.data.lerp_(other.data, point)
        expected = cross_entropy(mixed(as_float(IMAGES.images)), IMAGES.labels).item()
        assert loss == pytest.approx(expected, rel=1e-4)


def test_members_that_are_equal_have_no_barrier():
    one = members("papa").networks[0]
    found = connectivity(Papa([one, copy.deepcopy(one)]), IMAGES.images, IMAGES.labels)
    assert len(found.between) == 1
    assert (found.barrier, found.barrier_to_average) == pytest.approx((0, 0), abs=1e-6)


def test_a_barrier_is_the_height_above_the_straight_line_between_the_ends():
    between, to_average = ((1.0, 2.5, 2.0), (2.0, 1.0, 1.0)), ((1.0, 1.1, 1.0),)
    found = Connectivity(images=1, points=(0.0, 0.5, 1.0), between=between, to_average=to_average)
    assert found.barrier == pytest.approx(1.0)
    assert found.barrier_to_average == pytest.approx(0.1)


def test_a_line_of_another_length_is_refused():
    with pytest.raises(ValueError, match="another number of losses"):
        Connectivity(images=1, points=(0.0, 1.0), between=((1.0,),), to_average=())

import copy

import pytest
import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.branches import to_branches
from ekd_train.models.cost import count_macs
from ekd_train.models.stages import logits_and_features, stages


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1).double()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


IMAGES = torch.rand(2, 1, 8, 8, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("split", [None, "stem", "group1", "group2", "group3"])
def test_branches_that_start_as_copies_compute_the_plain_network(split):
    plain = plain_network().eval()
    branched = to_branches(plain, 3, split).eval()
    torch.testing.assert_close(branched(IMAGES), plain(IMAGES).expand(3, -1, -1))


def test_each_branch_has_its_own_later_stages_and_head_and_shares_the_rest():
    branched = to_branches(plain_network(), 3, "group1")
    count = {
        name: sum(p.numel() for p in stage.parameters()) for name, stage in stages(plain_network()).items()
    }
    own = count["group2"] + count["group3"] + count["head"]
    assert sum(p.numel() for p in branched.parameters()) == count["stem"] + count["group1"] + 3 * own


def test_a_branch_computes_what_a_plain_network_of_its_weights_computes():
    branched = to_branches(plain_network(), 2, "group2", "independent", generator()).eval()
    assembled = copy.deepcopy(branched.first)
    nn.Sequential(*list(stages(assembled).values())[3:]).load_state_dict(branched.others[0].state_dict())
    torch.testing.assert_close(branched(IMAGES)[1], assembled(IMAGES))
    assert not torch.allclose(branched(IMAGES)[0], branched(IMAGES)[1])


def test_only_the_named_branches_are_computed_in_their_order():
    branched = to_branches(plain_network(), 3, "stem", "independent", generator()).eval()
    torch.testing.assert_close(branched(IMAGES, members=[2, 0]), branched(IMAGES)[[2, 0]])
    assert count_macs(OneBranch(branched), (1, 8, 8)) == count_macs(plain_network(), (1, 8, 8))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        branched(IMAGES, members=[3])


class OneBranch(nn.Module):
    def __init__(self, branched: nn.Module) -> None:
        super().__init__()
        self.branched = branched

    def forward(self, x):
        return self.branched(x, members=[1])


def test_features_are_the_maps_before_the_heads():
    plain = plain_network().eval()
    branched = to_branches(plain, 2, "group1", "independent", generator()).eval()
    logits, features = branched.forward_with_features(IMAGES)
    expected_logits, expected_map = logits_and_features(plain, IMAGES)
    torch.testing.assert_close(logits[0], expected_logits)
    torch.testing.assert_close(features[0], expected_map)
    torch.testing.assert_close(
        features[1].mean((2, 3)) @ head(branched).weight.T + head(branched).bias, logits[1]
    )


def head(branched: nn.Module) -> nn.Linear:
    return next(layer for layer in branched.others[0].modules() if isinstance(layer, nn.Linear))


def test_averaging_equal_branches_gives_the_plain_network():
    plain = plain_network()
    plain(IMAGES)  # so that running statistics are not their initial values
    averaged = to_branches(plain, 4).averaged()
    for (key, tensor), (averaged_key, averaged_tensor) in zip(
        plain.state_dict().items(), averaged.state_dict().items(), strict=True
    ):
        assert key == averaged_key
        assert torch.equal(tensor, averaged_tensor)


def test_averaging_takes_the_mean_over_branches_and_keeps_the_trunk():
    branched = to_branches(plain_network(), 2, "group1", "independent", generator()).train()
    before = copy.deepcopy(branched.state_dict())
    branched(IMAGES)
    averaged = branched.averaged().network
    first, other = branched.first.network, head(branched)
    torch.testing.assert_close(averaged.linear.weight, (first.linear.weight + other.weight) / 2)
    assert torch.equal(averaged.stem.weight, first.stem.weight)
    assert averaged.norm.num_batches_tracked == 1
    assert not torch.equal(before["first.network.norm.running_var"], averaged.norm.running_var)


def test_an_average_of_branches_leaves_the_branches_alone():
    branched = to_branches(plain_network(), 2, "stem", "independent", generator())
    before = copy.deepcopy(branched.state_dict())
    branched.averaged()
    assert all(torch.equal(tensor, before[key]) for key, tensor in branched.state_dict().items())


def test_independent_branches_are_redrawn_from_the_generator_and_their_norms_reset():
    plain = plain_network().train()
    plain(IMAGES)
    first, second = (to_branches(plain, 2, "stem", "independent", generator()) for _ in range(2))
    assert all(torch.equal(tensor, second.state_dict()[key]) for key, tensor in first.state_dict().items())
    norms = [layer for layer in first.others.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    assert all(torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms)


def test_every_gradient_of_one_branch_reaches_that_branch_and_the_trunk_only():
    branched = to_branches(plain_network(), 2, "group1")
    branched(IMAGES)[1].square().sum().backward()
    reached = {name for name, p in branched.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("others.0") for name in reached)
    assert any(name.startswith("first.network.stem") for name in reached)
    assert not any(name.startswith(("first.network.group2", "first.network.linear")) for name in reached)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_branches": 0}, "num_branches must be at least 1"),
        (
            {"num_branches": 2, "split": "group4"},
            "split must be one of stem, group1, group2, group3, got 'group4'",
        ),
        ({"num_branches": 2, "split": "head"}, "split must be one of stem"),
        ({"num_branches": 2, "init": "zeros"}, "init must be one of copies, independent"),
    ],
)
def test_bad_arguments_say_what_is_valid(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_branches(plain_network(), **arguments)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_torchvision_networks_branch_and_average(name):
    torch.manual_seed(0)
    plain = build_model(name, num_classes=3, image_size=32).eval()
    branched = to_branches(plain, 2).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(branched(images)[1], plain(images))
        torch.testing.assert_close(branched.averaged()(images), plain(images))

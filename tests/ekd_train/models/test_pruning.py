"""A pruned network has that share of its channels less, and the strongest of them left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.models.branches import to_branches
from ekd_train.models.classifier import Classifier
from ekd_train.models.cost import count_macs, count_parameters
from ekd_train.models.pruning import prune_channels

NETWORKS = {
    "resnet": ({"depth": 8}, (1, 8, 8)),
    "wide_resnet": ({"depth": 10, "width": 2}, (1, 8, 8)),
    "resnet18": ({}, (3, 64, 64)),
    "resnet18 for small images": ({"small_images": True}, (1, 16, 16)),
    "resnet50": ({}, (3, 64, 64)),
    "resnet50 for small images": ({"small_images": True}, (3, 16, 16)),
    "vgg11_bn": ({}, (3, 32, 32)),
    "mobilenet_v2": ({"small_images": True}, (3, 16, 16)),
    "densenet121": ({"small_images": True}, (3, 16, 16)),
}
FAST = ["resnet", "wide_resnet", "resnet18 for small images"]


def network(key: str, seed: int = 0) -> tuple[Classifier, tuple[int, int, int]]:
    arguments, shape = NETWORKS[key]
    torch.manual_seed(seed)
    name = key.split()[0]
    made = build_model(name, num_classes=10, in_channels=shape[0], image_size=shape[1], **arguments)
    return made.eval(), shape


def convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}


@pytest.mark.parametrize(
    ("key", "share"),
    [(key, 0.375) for key in FAST]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [(key, 0.375) for key in NETWORKS if key not in FAST]
        + [(key, share) for key in (*FAST, "resnet50") for share in (0.25, 0.5)]
    ],
)
def test_every_layer_loses_that_share_of_its_channels_and_images_and_classes_none(key, share):
    whole, shape = network(key)
    pruned = prune_channels(whole, share, shape)
    before, after = convolutions(whole), convolutions(pruned)
    assert list(before) == list(after)
    for name, layer in after.items():
        assert layer.out_channels == layer.weight.shape[0] == int(before[name].out_channels * (1 - share)), (
            name
        )
    assert next(iter(after.values())).in_channels == shape[0]
    assert pruned(torch.rand(2, *shape)).shape == (2, 10)
    assert torch.equal(pruned.normalise.mean, whole.normalise.mean)


@pytest.mark.parametrize("name", ["resnet", "wide_resnet"])
def test_half_of_the_channels_are_the_architecture_of_half_the_channels(name):
    kept = {"depth": 8 if name == "resnet" else 10, "num_classes": 10, "in_channels": 1}
    whole, half = (build_model(name, stem_channels=channels, **kept) for channels in (16, 8))
    pruned = prune_channels(whole, 0.5, (1, 8, 8))
    assert {k: v.shape for k, v in pruned.state_dict().items()} == {
        k: v.shape for k, v in half.state_dict().items()
    }
    assert count_parameters(pruned) == count_parameters(half)
    assert count_macs(pruned, (1, 8, 8)) == count_macs(half, (1, 8, 8))


@pytest.mark.parametrize("key", FAST)
def test_shapes_follow_from_architecture_and_share_alone(key):
    one, shape = network(key, seed=0)
    other, _ = network(key, seed=1)
    with torch.device("meta"):
        weightless = network(key)[0]
        on_paper = prune_channels(weightless, 0.375, shape)
    assert all(value.is_meta for value in on_paper.state_dict().values())
    shapes = [
        {k: v.shape for k, v in made.state_dict().items()}
        for made in (prune_channels(one, 0.375, shape), prune_channels(other, 0.375, shape), on_paper)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("key", FAST)
def test_the_same_weights_are_pruned_alike_and_left_alone(key):
    whole, shape = network(key)
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    random_state = torch.get_rng_state()
    first, second = (prune_channels(whole, 0.25, shape).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.equal(before[k], v) for k, v in whole.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


@torch.no_grad()
def silence(layers: list[nn.Module], readers: list[nn.Module], channels: list[int]) -> None:
    """Make `channels` of what `layers` write and `readers` read exactly zero."""
    for layer in layers:
        for tensor in (layer.weight, getattr(layer, "bias", None)):
            if tensor is not None:
                tensor[channels] = 0
    for reader in readers:
        reader.weight[:, channels] = 0


def test_a_pruned_resnet_computes_what_it_did_if_only_silent_channels_went():
    """An oracle without importances: zero channels by hand, in the stream and in the blocks."""
    whole, shape = network("resnet")
    net = whole.network
    one, two, three = (group[0] for group in (net.group1, net.group2, net.group3))
    with torch.no_grad():  # statistics of a network that has been trained
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_()
                layer.running_var.uniform_(0.5, 2)
    for block, channels in ((one, [1, 5, 6, 15]), (two, list(range(0, 32, 4))), (three, list(range(16)))):
        silence([block.conv1, block.norm1], [block.conv2], channels)
    # Channel c of the stream is channel c of every later group: the shortcuts add new ones behind.
    first, second, third = [0, 7, 8, 9], [16, 20, 25, 31], [32, 40, 48, 56, 57, 58, 59, 63]
    silence([net.stem, net.norm, one.conv2, one.norm2], [one.conv1, two.conv1], first)
    silence([two.conv2, two.norm2], [three.conv1], first + second)
    silence([three.conv2, three.norm2], [net.linear], first + second + third)
    images = torch.rand(5, *shape)
    assert whole(images).std() > 0.1  # not silent altogether
    pruned = prune_channels(whole, 0.25, shape)
    torch.testing.assert_close(pruned(images), whole(images))
    assert count_parameters(pruned) < 0.6 * count_parameters(whole)


@pytest.mark.parametrize("key", FAST)
def test_the_weakest_channels_go(key):
    whole, shape = network(key)
    last = [name for name in convolutions(whole) if name.endswith("conv1")][-1]
    with torch.no_grad():  # its last quarter: channels that the rest would not miss
        layer = whole.get_submodule(last)
        weak = layer.out_channels // 4
        layer.weight[-weak:] *= 1e-3
    pruned = convolutions(prune_channels(whole, 0.25, shape))[last]
    assert len(pruned.weight) == layer.out_channels - weak
    assert pruned.weight.flatten(1).norm(dim=1).min() > 1e-2


@pytest.mark.parametrize("key", FAST)
def test_a_pruned_network_becomes_a_student_and_averages_back_to_its_own_shape(key):
    whole, shape = network(key)
    pruned = prune_channels(whole, 0.25, shape)
    images = torch.rand(3, *shape)
    for student in (to_batch_ensemble(pruned, 3), to_branches(pruned, 3)):
        student.eval()
        for logits in student(images):
            torch.testing.assert_close(logits, pruned(images), rtol=1e-4, atol=1e-5)
        plain = student.averaged()
        assert type(plain) is type(pruned)
        torch.testing.assert_close(plain(images), pruned(images), rtol=1e-4, atol=1e-5)
        assert count_parameters(plain) == count_parameters(pruned)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "shufflenet_v2_x0_5"])
def test_what_cannot_be_pruned_is_refused_by_name(name):
    with torch.device("meta"):
        whole = build_model(name, num_classes=10, image_size=224)
    with pytest.raises(ValueError, match=f"{type(whole.network).__name__} cannot be pruned; known are"):
        prune_channels(whole, 0.25, (3, 224, 224))


def test_a_layer_left_without_a_channel_and_groups_that_do_not_divide_are_errors():
    whole, shape = network("wide_resnet")
    with pytest.raises(ValueError, match=r"pruned=0.95 leaves no channel of stem, which has 16"):
        prune_channels(whole, 0.95, shape)
    grouped = build_model("resnext50_32x4d", num_classes=10, image_size=32)
    with pytest.raises(ValueError, match=r"pruned=0.375 cannot be taken out of layer1.0.conv1"):
        prune_channels(grouped, 0.375, (3, 32, 32))
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        prune_channels(whole, 1.0, shape)

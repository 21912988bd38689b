import pytest
import torch
from torch import nn

from ekd_train.data.description import ImageSpec
from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import average_members, to_batch_ensemble
from ekd_train.models.build_network import build_plain
from ekd_train.models.cost import count_parameters
from ekd_train.models.resnet import ResNet
from ekd_train.models.wide_resnet import PreActivationBlock, WideResNet
from ekd_train.settings import Architecture


@pytest.mark.parametrize("image_size", [8, 28, 32, 64])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(("name", "depth"), [("wide_resnet", 10), ("resnet", 8)])
def test_residual_networks_take_any_small_image(name, depth, in_channels, image_size):
    model = build_model(name, depth=depth, stem_channels=4, num_classes=7, in_channels=in_channels)
    assert model(torch.rand(2, in_channels, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("kind", "depth", "width", "millions"),
    [
        # He et al. 2015, table 6.
        (ResNet, 20, 1, "0.27"),
        (ResNet, 32, 1, "0.46"),
        (ResNet, 110, 1, "1.7"),
        # Zagoruyko and Komodakis 2016, tables 4 and 5.
        (WideResNet, 40, 1, "0.6"),
        (WideResNet, 40, 2, "2.2"),
        (WideResNet, 16, 4, "2.7"),
        (WideResNet, 28, 10, "36.5"),
    ],
)
def test_sizes_are_the_published_ones(kind, depth, width, millions):
    with torch.device("meta"):
        parameters = count_parameters(kind(10, depth=depth, width=width))
    decimals = len(millions.partition(".")[2])
    assert f"{parameters / 1e6:.{decimals}f}" == millions


def test_a_wide_residual_block_adds_the_raw_input_to_its_pre_activated_path():
    torch.manual_seed(0)
    block = PreActivationBlock(2, 4, stride=2).eval()
    x = torch.randn(1, 2, 6, 6)
    with torch.no_grad():
        block.conv2.weight.zero_()
    assert torch.equal(block(x), nn.functional.conv2d(x, block.shortcut.weight, stride=2))


def test_the_stem_of_a_wide_residual_network_is_not_widened():
    network = WideResNet(10, depth=10, width=3)
    assert network.stem.weight.shape == (16, 3, 3, 3)
    assert [group[0].conv2.out_channels for group in (network.group1, network.group2, network.group3)] == [
        48,
        96,
        192,
    ]
    assert [len(group) for group in (network.group1, network.group2, network.group3)] == [1, 1, 1]


@pytest.mark.parametrize("kind", [WideResNet, ResNet])
def test_weights_start_he_normal_and_biases_at_zero(kind):
    torch.manual_seed(0)
    network = kind(100, depth=28 if kind is WideResNet else 32)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() > 10_000:
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert torch.equal(network.linear.bias, torch.zeros(100))


def test_normalisation_is_inside_and_stays_out_of_the_state_dict():
    torch.manual_seed(0)
    model = build_model(
        "wide_resnet", depth=10, num_classes=3, in_channels=2, mean=(0.5, 0.25), std=(0.5, 2.0)
    ).eval()
    images = torch.rand(2, 2, 8, 8)
    by_hand = torch.stack([(images[:, 0] - 0.5) / 0.5, (images[:, 1] - 0.25) / 2.0], dim=1)
    torch.testing.assert_close(model(images), model.network(by_hand))
    stock = WideResNet(3, depth=10, in_channels=2)
    stock.load_state_dict({key.removeprefix("network."): t for key, t in model.state_dict().items()})
    assert all(key.startswith("network.") for key in model.state_dict())


@pytest.mark.parametrize("name", ["wide_resnet", "resnet", "resnet18"])
def test_the_settings_of_an_architecture_build_it(name):
    settings = Architecture(name=name, depth={"wide_resnet": 10, "resnet": 8}.get(name))
    network = build_plain(settings, ImageSpec(num_classes=4, image_shape=(3, 32, 32)))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "wideresnet"}, "unknown architecture 'wideresnet'; the nearest are wide_resnet,"),
        ({"name": "resnet81"}, "nearest are resnet"),
        (
            {"name": "wide_resnet", "depth": 27},
            r"wide_resnet: depth must be 6n\+4 .* got 27; the nearest is 28",
        ),
        ({"name": "resnet", "depth": 1}, r"resnet: depth must be 6n\+2 .* got 1; the nearest is 8"),
        (
            {"name": "resnet18", "depth": 18},
            "depth, width and stem_channels apply to wide_resnet and resnet only",
        ),
        ({"name": "resnet18", "width": 2.0}, "depth, width and stem_channels apply"),
        ({"name": "wide_resnet", "width": 0.01}, "width 0.01 leaves no channel"),
        ({"name": "wide_resnet", "num_classes": 1}, "num_classes must be >= 2"),
        ({"name": "wide_resnet", "mean": (0.5,)}, "mean and std must have one value a channel"),
        ({"name": "wide_resnet", "mean": (0.5,), "std": (1.0,)}, "mean and std must have 3 values"),
        ({"name": "wide_resnet", "std": (1.0, 0.0, 1.0)}, "std must be positive"),
    ],
)
def test_a_bad_architecture_says_the_rule_and_the_nearest(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**{"num_classes": 3} | arguments)


@pytest.mark.slow
def test_the_averaged_student_exports_with_any_batch_size():
    torch.manual_seed(0)
    student = to_batch_ensemble(
        build_model(
            "wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1, mean=[0.3], std=[0.2]
        ),
        2,
    )
    averaged = average_members(student).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(averaged, (torch.rand(3, 1, 8, 8),), dynamic_shapes=({0: batch},))
    for size in (1, 2, 7):
        images = torch.rand(size, 1, 8, 8)
        torch.testing.assert_close(program.module()(images), averaged(images))

import pytest
import torch
import torchvision
from torch import nn

from ekd_train.models.torchvision_classifiers import torchvision_classifier, torchvision_names


def first_convolution(network: nn.Module) -> nn.Conv2d:
    return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))


def test_classifiers_only_are_known():
    assert {"resnet18", "vit_b_16", "convnext_tiny"} <= set(torchvision_names())
    assert not {"fcn_resnet50", "raft_small", "r3d_18"} & set(torchvision_names())


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "mobilenet_v3_small"])
def test_a_stock_network_has_the_stock_keys_and_shapes(name):
    ours = torchvision_classifier(name, 1000).state_dict()
    stock = torchvision.models.get_model(name, weights=None).state_dict()
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in stock.items()}


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "shufflenet_v2_x0_5",
        pytest.param("densenet121", marks=pytest.mark.slow),
        "convnext_tiny",
        "efficientnet_b0",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_y_400mf",
    ],
)
def test_small_images_keep_their_size_through_the_stem(name):
    network = torchvision_classifier(name, 5, in_channels=1, image_size=32, small_images=True).eval()
    stem = first_convolution(network)
    assert (stem.kernel_size, stem.stride, stem.in_channels) == ((3, 3), (1, 1), 1)
    second = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][1]
    seen = []
    second.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2:]))
    with torch.no_grad():
        assert network(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    assert seen == [(32, 32)]


def test_the_small_resnet_18_has_the_known_size_of_its_cifar_form():
    network = torchvision_classifier("resnet18", 10, image_size=32, small_images=True)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962


def test_another_number_of_channels_changes_the_first_convolution_only():
    ours = torchvision_classifier("resnet18", 1000, in_channels=1).state_dict()
    stock = torchvision.models.resnet18(weights=None).state_dict()
    assert [key for key in stock if stock[key].shape != ours[key].shape] == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 1, 7, 7)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("squeezenet1_1", {"small_images": True}, "has no stem that small_images could adapt.*ResNet"),
        (
            "alexnet",
            {"image_size": 28},
            "alexnet cannot take 28x28 images .*small_images, wide_resnet or resnet",
        ),
        ("inception_v3", {"image_size": 32}, "inception_v3 cannot take 32x32 images"),
    ],
)
def test_what_a_network_cannot_do_is_an_error_before_training(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        torchvision_classifier(name, 5, **arguments)

import pytest
import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.stages import logits_and_features, stages
from ekd_train.models.torchvision_classifiers import torchvision_classifier

SMALL = {"wide_resnet": {"depth": 10}, "resnet": {"depth": 8}}


@pytest.mark.parametrize(
    ("name", "names", "features"),
    [
        ("wide_resnet", ["stem", "group1", "group2", "group3"], (64, 8, 8)),
        ("resnet", ["stem", "group1", "group2", "group3"], (64, 8, 8)),
        ("resnet18", ["stem", "layer1", "layer2", "layer3", "layer4"], (512, 1, 1)),
        ("densenet121", ["stem", *(f"denseblock{i}" for i in range(1, 5))], (1024, 1, 1)),
        ("shufflenet_v2_x1_0", ["stem", "stage2", "stage3", "stage4", "conv5"], (1024, 1, 1)),
        ("convnext_tiny", [f"block{i}" for i in range(8)], (768, 1, 1)),
        ("efficientnet_b0", [f"block{i}" for i in range(9)], (1280, 1, 1)),
        ("mobilenet_v2", [f"block{i}" for i in range(19)], (1280, 1, 1)),
        ("mobilenet_v3_small", [f"block{i}" for i in range(13)], (576, 1, 1)),
    ],
)
def test_the_stages_one_after_the_other_are_the_network(name, names, features):
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, **SMALL.get(name, {})).eval()
    images = torch.rand(2, 3, 32, 32)
    row = stages(model)
    assert list(row) == [*names, "head"]
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(nn.Sequential(*row.values())(images), expected)
        logits, last_map = logits_and_features(model, images)
    torch.testing.assert_close(logits, expected)
    assert last_map.shape == (2, *features)


def test_the_blocks_of_vgg_end_with_their_pools():
    with torch.device("meta"):
        network = torchvision_classifier("vgg11_bn", 5, image_size=32).eval()
        images = torch.rand(2, 3, 32, 32)
        row = stages(network)
        assert list(row) == ["block1", "block2", "block3", "block4", "block5", "head"]
        assert nn.Sequential(*row.values())(images).shape == (2, 5)
    parameters = [p for stage in row.values() for p in stage.parameters()]
    assert [id(p) for p in parameters] == [id(p) for p in network.parameters()]


def test_stages_hold_the_layers_of_the_network_itself():
    model = build_model("wide_resnet", depth=10, num_classes=5)
    held = {id(p) for stage in stages(model).values() for p in stage.parameters()}
    assert held == {id(p) for p in model.parameters()}


def test_a_network_of_unknown_stages_is_refused_by_name():
    with pytest.raises(
        TypeError,
        match=r"stages of torch\.nn\.modules\.linear\.Linear are not known; known are WideResNet, ResNet",
    ):
        stages(nn.Linear(2, 2))

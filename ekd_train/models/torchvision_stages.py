"""The stages of torchvision's families of networks."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

from torch import nn
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.shufflenetv2 import ShuffleNetV2

from ekd_train.models.residual_stages import Stages, pooled


def _resnet(net: models.ResNet) -> Stages:
    return OrderedDict(
        stem=nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        layer1=net.layer1,
        layer2=net.layer2,
        layer3=net.layer3,
        layer4=net.layer4,
        head=nn.Sequential(net.avgpool, nn.Flatten(), net.fc),
    )


def _shufflenet(net: ShuffleNetV2) -> Stages:
    return OrderedDict(
        stem=nn.Sequential(net.conv1, net.maxpool),
        stage2=net.stage2,
        stage3=net.stage3,
        stage4=net.stage4,
        conv5=net.conv5,
        head=pooled(net.fc),
    )


def _densenet(net: DenseNet) -> Stages:
    """`stem`, then each dense block with its transition; the last with the final norm and ReLU."""
    row: Stages = OrderedDict()
    gathered: list[nn.Module] = []
    name = "stem"
    for layer_name, layer in net.features.named_children():
        if layer_name.startswith("denseblock"):
            row[name] = nn.Sequential(*gathered)
            name, gathered = layer_name, []
        gathered.append(layer)
    row[name] = nn.Sequential(*gathered, nn.ReLU())
    row["head"] = pooled(net.classifier)
    return row


def _vgg(net: models.VGG) -> Stages:
    """`block1` to `block5`, each ending with its max-pool."""
    row: Stages = OrderedDict()
    gathered: list[nn.Module] = []
    for layer in net.features:
        gathered.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            row[f"block{len(row) + 1}"] = nn.Sequential(*gathered)
            gathered = []
    row["head"] = nn.Sequential(net.avgpool, nn.Flatten(), net.classifier)
    return row


def _features_and_classifier(net: Any) -> Stages:
    """`block0`, `block1`, ...: the children of `features`, by their number."""
    row: Stages = OrderedDict((f"block{i}", block) for i, block in enumerate(net.features))
    if isinstance(net, models.ConvNeXt):  # its classifier norms the pooled map, then flattens
        row["head"] = nn.Sequential(net.avgpool, net.classifier)
    else:
        row["head"] = pooled(net.classifier)
    return row


TORCHVISION_FAMILIES = cast(
    dict[type[nn.Module], Callable[[nn.Module], Stages]],
    {
        models.ResNet: _resnet,
        models.VGG: _vgg,
        DenseNet: _densenet,
        ShuffleNetV2: _shufflenet,
        models.MobileNetV2: _features_and_classifier,
        models.MobileNetV3: _features_and_classifier,
        models.EfficientNet: _features_and_classifier,
        models.ConvNeXt: _features_and_classifier,
    },
)
"""How each family is divided into stages."""

"""Networks as an ordered row of stages, for branching after one and for looking at features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.shufflenetv2 import ShuffleNetV2

from ekd_train.models.classifier import Classifier
from ekd_train.models.resnet import ResNet
from ekd_train.models.wide_resnet import WideResNet

Stages = OrderedDict[str, nn.Module]


def stages(module: nn.Module) -> Stages:
    """The stages of a network, in order: applied one after the other they are its forward.

    The last one, `head`, is global pooling, flattening and what follows; so the input of `head` is
    the last feature map `(b, channel, h, w)`. The stages hold the network's own layers, not
    copies. Known are `Classifier`s, the residual networks of this project, and torchvision's
    ResNet, VGG, DenseNet, MobileNet, EfficientNet, ConvNeXt and ShuffleNet families.

    Raises `TypeError` for any other module.

    >>> list(stages(WideResNet(10, depth=10)))
    ['stem', 'group1', 'group2', 'group3', 'head']
    """
    if isinstance(module, Classifier):
        row = stages(module.network)
        first = next(iter(row))
        row[first] = nn.Sequential(module.normalise, row[first])
        return row
    for family, split_up in _FAMILIES.items():
        if isinstance(module, family):
            return split_up(module)
    raise TypeError(
        f"the stages of {type(module).__name__} are not known; known are "
        + ", ".join(family.__name__ for family in _FAMILIES)
    )


def logits_and_features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `(b, c)` and the last feature map `(b, channel, h, w)`, before pooling, of a network
    that `stages` knows."""
    *body, head = stages(module).values()
    features = nn.Sequential(*body)(images)
    return head(features), features


def _wide_resnet(net: WideResNet) -> Stages:
    # The last BN and ReLU belong to the last feature map: pre-activation blocks end before them.
    return OrderedDict(
        stem=net.stem,
        group1=net.group1,
        group2=net.group2,
        group3=nn.Sequential(net.group3, net.norm, nn.ReLU()),
        head=_pooled(net.linear),
    )


def _resnet(net: ResNet) -> Stages:
    return OrderedDict(
        stem=nn.Sequential(net.stem, net.norm, nn.ReLU()),
        group1=net.group1,
        group2=net.group2,
        group3=net.group3,
        head=_pooled(net.linear),
    )


def _torchvision_resnet(net: models.ResNet) -> Stages:
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
        head=_pooled(net.fc),
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
    row["head"] = _pooled(net.classifier)
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
        row["head"] = _pooled(net.classifier)
    return row


def _pooled(head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


_FAMILIES = cast(
    dict[type[nn.Module], Callable[[nn.Module], Stages]],
    {
        WideResNet: _wide_resnet,
        ResNet: _resnet,
        models.ResNet: _torchvision_resnet,
        models.VGG: _vgg,
        DenseNet: _densenet,
        ShuffleNetV2: _shufflenet,
        models.MobileNetV2: _features_and_classifier,
        models.MobileNetV3: _features_and_classifier,
        models.EfficientNet: _features_and_classifier,
        models.ConvNeXt: _features_and_classifier,
    },
)

"""Networks as an ordered row of stages, for branching after one and for looking at features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ekd_train.models.classifier import Classifier
from ekd_train.models.pooling import GlobalAverage
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
    families = _FAMILIES
    if not isinstance(module, tuple(families)):
        # Imported late: torchvision takes longer to import than torch itself.
        from ekd_train.models.torchvision_stages import FAMILIES

        families = _FAMILIES | FAMILIES
    for family, split_up in families.items():
        if isinstance(module, family):
            return split_up(module)
    raise TypeError(
        f"the stages of {type(module).__module__}.{type(module).__name__} are not known; known are "
        + ", ".join(family.__name__ for family in families)
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
        head=pooled(net.linear),
    )


def _resnet(net: ResNet) -> Stages:
    return OrderedDict(
        stem=nn.Sequential(net.stem, net.norm, nn.ReLU()),
        group1=net.group1,
        group2=net.group2,
        group3=net.group3,
        head=pooled(net.linear),
    )


def pooled(head: nn.Module) -> nn.Module:
    """Global pooling and `head`."""
    return nn.Sequential(GlobalAverage(), head)


_FAMILIES = cast(
    dict[type[nn.Module], Callable[[nn.Module], Stages]], {WideResNet: _wide_resnet, ResNet: _resnet}
)

"""What a row of stages is, and the stages of this project's residual networks."""

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from torch import nn

from ekd_train.models.residual_parts import GlobalAverage
from ekd_train.models.resnet import ResNet
from ekd_train.models.wide_resnet import WideResNet

Stages = OrderedDict[str, nn.Module]
"""Modules by name; applied one after the other they are a network's forward."""


def pooled(head: nn.Module) -> nn.Module:
    """The last stage of a network: global average pooling, then `head`."""
    return nn.Sequential(GlobalAverage(), head)


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


RESIDUAL_FAMILIES = cast(
    dict[type[nn.Module], Callable[[nn.Module], Stages]], {WideResNet: _wide_resnet, ResNet: _resnet}
)
"""How each family is divided into stages."""

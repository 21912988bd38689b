"""The stages of timm's networks whose children, one after the other, are their forward."""

import re
from collections import OrderedDict

from torch import nn

from ekd_train.models.residual_stages import Stages

KNOWN = frozenset(
    (
        *("ByobNet", "ConvNeXt", "CspNet", "DaVit", "DenseNet", "DLA"),
        *("DPN", "EdgeNeXt", "EfficientNet", "EfficientVit", "FastVit", "FocalNet"),
        *("GhostNet", "HighPerfGpuNet", "InceptionV3", "InceptionV4", "MaxxVit", "MetaFormer"),
        *("MetaNeXt", "MobileNetV3", "NextViT", "NormFreeNet", "RegNet", "ResNet"),
        *("ResNetV2", "RexNet", "SelecSls", "SENet", "StarNet", "TinyVit"),
        *("TResNet", "VGG", "VovNet", "Xception", "XceptionAligned"),
    )
)
"""Classes of which that is tested. Features of others may be tokens, or have their channels last."""

_CONTAINERS = ("stages", "blocks", "features", "layers", "body")
_ONE_STAGE = re.compile(r"(layer|level|s|block|Mixed_)\d\w*")
_HEAD = ("global_pool", "pre_logits", "head")
"""Where the head begins: pooling, and what pools itself."""


def is_known(net: nn.Module) -> bool:
    """Whether `timm_stages` knows a network."""
    return type(net).__module__.startswith("timm.models.") and type(net).__name__ in KNOWN


def timm_stages(net: nn.Module) -> Stages:
    """`stem`, each feature stage by its name in the network, and `head`."""
    row: Stages = OrderedDict()
    name = "stem"
    gathered: list[nn.Module] = []
    for child_name, child in net.named_children():
        if child_name in _CONTAINERS:
            parts = [(f"{child_name}{i}", part) for i, part in child.named_children()]
        elif _ONE_STAGE.fullmatch(child_name):
            parts = [(child_name, child)]
        elif name != "head" and child_name in _HEAD:
            parts = [("head", child)]
        else:
            gathered.append(child)
            continue
        for part_name, part in parts:
            if gathered:
                row[name] = nn.Sequential(*gathered)
            name, gathered = part_name, [part]
    row[name] = nn.Sequential(*gathered)
    return row

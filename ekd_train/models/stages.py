"""Networks as an ordered row of stages, for branching after one and for looking at features."""

from torch import Tensor, nn

from ekd_train.models.classifier import Classifier
from ekd_train.models.residual_stages import RESIDUAL_FAMILIES, Stages
from ekd_train.models.timm_stages import KNOWN, is_known, timm_stages


def stages(module: nn.Module) -> Stages:
    """The stages of a network, in order: applied one after the other they are its forward.

    The last one, `head`, is global pooling, flattening and what follows; so the input of `head` is
    the last feature map `(b, channel, h, w)`. The stages hold the network's own layers, not
    copies. Known are `Classifier`s, the residual networks of this project, torchvision's
    ResNet, VGG, DenseNet, MobileNet, EfficientNet, ConvNeXt and ShuffleNet families, and those of timm's
    whose features are maps (`timm_stages`).

    Raises `TypeError` for any other module.

    >>> from ekd_train.models.wide_resnet import WideResNet
    >>> list(stages(WideResNet(10, depth=10)))
    ['stem', 'group1', 'group2', 'group3', 'head']
    """
    if isinstance(module, Classifier):
        row = stages(module.network)
        first = next(iter(row))
        row[first] = nn.Sequential(module.normalise, row[first])
        return row
    if is_known(module):
        return timm_stages(module)
    families = RESIDUAL_FAMILIES
    if not isinstance(module, tuple(families)):
        # Imported late: torchvision takes longer to import than torch itself.
        from ekd_train.models.torchvision_stages import TORCHVISION_FAMILIES

        families = RESIDUAL_FAMILIES | TORCHVISION_FAMILIES
    for family, split_up in families.items():
        if isinstance(module, family):
            return split_up(module)
    named = dict.fromkeys(family.__name__ for family in families)  # two are called ResNet
    raise TypeError(
        f"the stages of {type(module).__module__}.{type(module).__name__} are not known; known are "
        f"{', '.join(named)}, and of timm's {', '.join(sorted(KNOWN, key=str.lower))}"
    )


def logits_and_features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `(b, c)` and the last feature map `(b, channel, h, w)`, before pooling, of a network
    that `stages` knows."""
    *body, head = stages(module).values()
    features = nn.Sequential(*body)(images)
    return head(features), features

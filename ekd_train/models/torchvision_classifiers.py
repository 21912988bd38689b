"""The door to torchvision's classifiers, adapted to other channels and to small images."""

from functools import cache

from torch import nn
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.shufflenetv2 import ShuffleNetV2

from ekd_train.models.image_size import check_takes

_STEM_POOLS: dict[type[nn.Module], str] = {
    models.ResNet: "maxpool",
    ShuffleNetV2: "maxpool",
    DenseNet: "features.pool0",
    models.ConvNeXt: "",
    models.EfficientNet: "",
    models.MNASNet: "",
    models.MobileNetV2: "",
    models.MobileNetV3: "",
    models.RegNet: "",
    models.VGG: "",
}
"""Families whose stem can be adapted to small images, and the max-pool right after that stem, if any."""


@cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classifiers, sorted."""
    return tuple(sorted(models.list_models(module=models)))


def torchvision_classifier(
    name: str, num_classes: int, *, in_channels: int = 3, image_size: int = 224, small_images: bool = False
) -> nn.Module:
    """torchvision's classifier `name`, untrained, with its own state-dict keys.

    Args:
        name: one of `torchvision_names()`.
        num_classes: width of the head.
        in_channels: where it is not 3, the first convolution is replaced by one of that many channels.
        image_size: height and width in pixels of the images it must take.
        small_images: the first convolution becomes 3x3 with stride 1 and the max-pool right after
            the stem is taken out, so that 32 pixels keep a map to work on. Known for the families
            ResNet, ShuffleNet, DenseNet, ConvNeXt (whose stem convolution patchifies), EfficientNet,
            MNASNet, MobileNet, RegNet and VGG (whose stem already is so).

    Raises `ValueError`: the family has no such stem, or the network cannot take images of that size.
    """
    own = _own_arguments(name, num_classes, image_size)
    try:
        network = models.get_model(name, **own)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"{name} cannot take {image_size}x{image_size} images: {error}") from error
    for place, layer in _stem_changes(name, network, in_channels, small_images).items():
        network.set_submodule(place, layer)
    check_takes(name, network, (in_channels, image_size, image_size))
    return network


def _own_arguments(name: str, num_classes: int, image_size: int) -> dict[str, object]:
    own: dict[str, object] = {"weights": None, "num_classes": num_classes}
    if name.startswith("vit_"):
        own["image_size"] = image_size  # length of the position embedding
    if name in ("googlenet", "inception_v3"):
        own |= {"aux_logits": False, "init_weights": True}  # one output in training too
    return own


def _stem_changes(
    name: str, network: nn.Module, in_channels: int, small_images: bool
) -> dict[str, nn.Module]:
    changes: dict[str, nn.Module] = {}
    if small_images and (pool := _stem_pool(name, network)):
        changes[pool] = nn.Identity()
    if small_images or in_channels != 3:
        place, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
        changes[place] = _first_convolution(old, in_channels, small_images)
    return changes


def _stem_pool(name: str, network: nn.Module) -> str:
    pool = _STEM_POOLS.get(type(network))
    if pool is None:
        families = ", ".join(family.__name__ for family in _STEM_POOLS)
        raise ValueError(f"{name} has no stem that small_images could adapt; families that have: {families}")
    return pool


def _first_convolution(old: nn.Conv2d, in_channels: int, small_images: bool) -> nn.Conv2d:
    shape: dict[str, object] = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
    if small_images:
        shape = {"kernel_size": 3, "stride": 1, "padding": 1}
    new = nn.Conv2d(in_channels, old.out_channels, bias=old.bias is not None, **shape)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")  # as these families start
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new

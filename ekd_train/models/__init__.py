"""Networks: classifiers by name, subnetworks that share weights, and their averages."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from ekd_train.models.classifier import Classifier, Normalise
from ekd_train.models.image_size import check_takes
from ekd_train.models.pruning import prune_channels
from ekd_train.models.resnet import ResNet
from ekd_train.models.wide_resnet import WideResNet
from ekd_train.own_code import build, is_own, refuse_options

__all__ = ["SMALL_IMAGE_NETWORKS", "Classifier", "build_model"]

SMALL_IMAGE_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet": ResNet,
    "wide_resnet": WideResNet,
}
"""This project's own architectures; every other name is torchvision's or timm's."""

TIMM = "timm/"
"""Before the name of an architecture of timm's: many are torchvision's names too."""


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    resized: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    depth: int | None = None,
    width: float | None = None,
    stem_channels: int | None = None,
    small_images: bool | None = None,
    pruned: float = 0,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """An untrained classifier of images in [0, 1]: `(b, in_channels, h, w)` to logits `(b, num_classes)`.

    The last six arguments are `ekd_train.settings.Architecture`'s; None leaves the architecture's
    own default. Weights are drawn from torch's global generator.

    Args:
        name: `wide_resnet`, `resnet` (CIFAR style), any torchvision classifier, any of timm's as
            `timm/NAME`, or a class of one's own: `package.module:name`, which is given `num_classes`,
            `in_channels` and `image_size`, those of the next four that are set, and `options`.
        num_classes: number of classes, at least 2.
        in_channels: channels of the images, 1 or 3 as a rule.
        image_size: height and width in pixels; checked where an architecture limits it.
        resized: whether images of another size become `image_size` pixels square inside.
        mean: per channel, of images in [0, 1]; None: 0.
        std: per channel; None: 1.
        depth: `wide_resnet`: 6n+4 (28 by default); `resnet`: 6n+2 (32 by default).
        width: `wide_resnet`, `resnet`: channel multiplier of the groups (1 by default).
        stem_channels: `wide_resnet`, `resnet`: channels of the stem (16 by default).
        small_images: torchvision names: adapt the stem to small images (no by default). The first
            two always have such a stem.
        pruned: share of every layer's channels to take out, in [0, 1); see `ekd_train.models.pruning`.
        options: further keyword arguments of a class of one's own, which alone takes some.

    Raises `ValueError`: unknown name (with the nearest), a depth that the architecture does not have (with
    the rule and the nearest), a setting that does not apply, a bad size, a network that cannot be pruned, or
    a library that is not installed.

    >>> model = build_model("wide_resnet", depth=10, num_classes=10, in_channels=1)
    >>> next(iter(model.state_dict()))
    'network.stem.weight'
    """
    if num_classes < 2 or in_channels < 1:
        raise ValueError(f"num_classes must be >= 2 and in_channels >= 1, got {num_classes}, {in_channels}")
    normalise = Normalise(
        [0.0] * in_channels if mean is None else mean, [1.0] * in_channels if std is None else std
    )
    if len(normalise.mean) != in_channels:
        raise ValueError(
            f"mean and std must have {in_channels} values, one a channel, got {len(normalise.mean)}"
        )
    refuse_options(options or {}, name)
    given = {"depth": depth, "width": width, "stem_channels": stem_channels}
    shape = {key: value for key, value in given.items() if value is not None}
    if is_own(name):
        # What `Architecture` says when nobody set it is not passed on.
        unset = {"width": 1, "stem_channels": 16}
        shape = {key: value for key, value in shape.items() if value != unset.get(key)}
        if small_images:
            shape["small_images"] = True
        network = build(
            name, num_classes, in_channels=in_channels, image_size=image_size, **shape, **(options or {})
        )
        if not isinstance(network, nn.Module):
            raise ValueError(f"{name} gave {type(network).__name__}, not a torch.nn.Module")
        check_takes(name, network, (in_channels, image_size, image_size))
    elif name in SMALL_IMAGE_NETWORKS:
        network = SMALL_IMAGE_NETWORKS[name](num_classes, in_channels=in_channels, **shape)
    else:
        # 1 and 16 are what `Architecture` says when nobody set them.
        own = depth is not None or width not in (None, 1) or stem_channels not in (None, 16)
        network = _of_a_library(name, num_classes, in_channels, image_size, bool(small_images), own)
    classifier = Classifier(normalise, network, image_size if resized else None)
    return prune_channels(classifier, pruned, (in_channels, image_size, image_size)) if pruned else classifier


def _of_a_library(
    name: str, num_classes: int, in_channels: int, image_size: int, small_images: bool, own_settings: bool
) -> nn.Module:
    # Imported late: torchvision takes longer to import than torch itself, in every process.
    if name.startswith(TIMM):
        from ekd_train.models.timm_classifiers import timm_classifier

        build = partial(timm_classifier, name.removeprefix(TIMM))
    else:
        from ekd_train.models.torchvision_classifiers import torchvision_classifier, torchvision_names

        _check_name(name, torchvision_names())
        build = partial(torchvision_classifier, name)
    if own_settings:
        raise ValueError(
            f"{name}: depth, width and stem_channels apply to wide_resnet and resnet only; "
            f"leave them out: architecture={{name: {name}}}"
        )
    return build(num_classes, in_channels=in_channels, image_size=image_size, small_images=small_images)


def _check_name(name: str, torchvision_names: Sequence[str]) -> None:
    known = (*SMALL_IMAGE_NETWORKS, *torchvision_names)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise ValueError(f"unknown architecture {name!r}; the nearest are {', '.join(nearest)}")

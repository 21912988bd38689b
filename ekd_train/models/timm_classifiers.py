"""The door to timm's classifiers; timm is an extra."""

import difflib
from typing import Any

from torch import nn

from ekd_train.models.image_size import check_takes


def timm_classifier(
    name: str, num_classes: int, *, in_channels: int = 3, image_size: int = 224, small_images: bool = False
) -> nn.Module:
    """timm's classifier `name`, untrained, with its own state-dict keys.

    `name`: as `timm.list_models()` has it. `image_size`: height and width in pixels of the images it must
    take; architectures with a position embedding are made for that size. `small_images` is not known for
    timm's stems, so that only False is possible.

    Raises `ValueError`: timm is not installed or has no such classifier, the network cannot take images of
    that size, or `small_images`.
    """
    full_name = f"timm/{name}"
    try:
        import timm
    except ImportError:
        raise ValueError(f"{full_name} needs timm: pip install 'ekd[timm]'") from None
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
        raise ValueError(
            f"unknown architecture {full_name!r}; the nearest are "
            + ", ".join(f"timm/{other}" for other in nearest)
        )
    if small_images:
        raise ValueError(f"{full_name}: small_images applies to torchvision's names only")
    own: dict[str, Any] = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
    made_for = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if made_for is not None and made_for.fixed_input_size:
        own["img_size"] = image_size
    try:
        network: nn.Module = timm.create_model(name, **own)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{full_name} cannot take {in_channels}x{image_size}x{image_size} images: {error}"
        ) from error
    check_takes(full_name, network, (in_channels, image_size, image_size))
    return network

"""The Python that builds a student afresh and fills it with a file of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

PRUNED_TAG = "ekd.pruned"
"""On a registered version whose student was pruned: the share."""

ARCHITECTURE_TAG = "ekd.architecture"
"""On a registered version: the student's architecture, as JSON."""


def rebuilding(architecture: Mapping[str, Any], data: Mapping[str, Any], file: str = "student.pt") -> str:
    """Python that leaves `network`: images in [0, 1] to logits, with the weights of `file`.

    `file` is what `ekd export --format state-dict` wrote. The network is made of torchvision's or
    timm's own class, with the stem edits that the student has, or of this project's. The
    normalisation, which is no part of the state dict, is in the lines.

    Args:
        architecture: the student's, resolved.
        data: `ekd_train.data.describe`'s, or its `num_classes`, `image_shape`, `mean` and `std`.
        file: the name that the lines read; safetensors where it ends so, else `torch.save`'s.

    Raises:
        ValueError: a library that builds the network is not installed.
    """
    imports = ["import torch"]
    if PurePath(file).suffix == ".safetensors":
        imports.append("from safetensors.torch import load_file")
        weights = f"load_file({file!r})"
    else:
        weights = f"torch.load({file!r}, weights_only=True)"
    if architecture.get("pruned"):
        return "\n".join([*imports, *_pruned(architecture, data, weights)])
    more, build = _stock(architecture, data)
    return f"""{chr(10).join([*imports, *more])}
from torchvision.transforms import Normalize
{chr(10).join(build)}
stock.load_state_dict({weights})
normalise = Normalize(mean={tuple(data["mean"])}, std={tuple(data["std"])})
network = torch.nn.Sequential(normalise, stock).eval()"""


def _pruned(architecture: Mapping[str, Any], data: Mapping[str, Any], weights: str) -> list[str]:
    """No stock class has its shapes: they follow from pruning an unpruned network of this project."""
    given = ", ".join(f"{key}={value!r}" for key, value in architecture.items() if value is not None)
    shape, mean, std = (tuple(data[key]) for key in ("image_shape", "mean", "std"))
    return [
        "from ekd_train.settings import Architecture",
        "from ekd_train.training.trainee import build_plain",
        "network = build_plain(",
        f"    Architecture({given}),",
        f"    num_classes={data['num_classes']}, image_shape={shape}, mean={mean}, std={std},",
        ").eval()",
        f"network.network.load_state_dict({weights})  # the file is without the normalisation",
    ]


def _stock(architecture: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Imports, and the lines that build `stock`: normalised images to logits."""
    from ekd_train.models import SMALL_IMAGE_NETWORKS, TIMM

    name, classes = architecture["name"], data["num_classes"]
    channels, size = data["image_shape"][:2]
    if name in SMALL_IMAGE_NETWORKS:
        network = SMALL_IMAGE_NETWORKS[name]
        kind = network.__name__
        keys = ("depth", "width", "stem_channels")
        shape = {key: architecture[key] for key in keys if architecture.get(key) is not None}
        arguments = _arguments({**shape, "in_channels": channels})
        return [f"from {network.__module__} import {kind}"], [f"stock = {kind}({classes}, {arguments})"]
    if name.startswith(TIMM):
        from ekd_train.models.timm_classifiers import timm_arguments

        own = name.removeprefix(TIMM)
        arguments = _arguments(timm_arguments(own, classes, in_channels=channels, image_size=size))
        return ["import timm"], [f"stock = timm.create_model({own!r}, {arguments})"]
    from ekd_train.models.torchvision_classifiers import torchvision_construction

    small = bool(architecture.get("small_images"))
    own_arguments, changes = torchvision_construction(
        name, classes, in_channels=channels, image_size=size, small_images=small
    )
    return ["from torchvision.models import get_model"], [
        f"stock = get_model({name!r}, {_arguments(own_arguments)})",
        *(f"stock.set_submodule({place!r}, torch.nn.{layer!r})" for place, layer in changes.items()),
    ]


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())

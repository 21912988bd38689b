"""How to build a student that no stock class has: one whose channels were pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRUNED_TAG = "ekd.pruned"
"""On a registered version whose student was pruned: the share."""


def rebuilding(architecture: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Python that loads the file of `ekd export --format state-dict` into a pruned network.

    Args:
        architecture: the student's, resolved.
        data: `ekd_train.data.describe`'s.
    """
    given = ", ".join(f"{key}={value!r}" for key, value in architecture.items() if value is not None)
    shape = tuple(data["image_shape"])
    mean, std = tuple(data["mean"]), tuple(data["std"])
    return f"""import torch
from ekd_train.settings import Architecture
from ekd_train.trainee import build_plain
network = build_plain(
    Architecture({given}),
    num_classes={data["num_classes"]}, image_shape={shape}, mean={mean}, std={std},
)
network.network.load_state_dict(torch.load("student.pt"))  # without the normalisation: the inner network's"""

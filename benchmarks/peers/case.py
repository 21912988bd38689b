"""The one distillation that both sides run; imports nothing that the peers' environment lacks."""

from __future__ import annotations

import os

import torch
from torch import nn

from benchmarks.timing import default_clock
from benchmarks.turns import Turns
from ekd_train.models import build_model

BATCH_SIZE = 128
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.03, 0.9, 5e-4
TEMPERATURE, TEACHER_WEIGHT = 4.0, 0.9
CROP_PADDING = 4
ARCHITECTURE = {"name": "wide_resnet", "depth": 10}
CLASSES, CHANNELS, IMAGE_SIZE = 10, 1, 28
STATISTICS = {"mean": (0.2860,), "std": (0.3530,)}
"""Of Fashion-MNIST's training images."""


def network() -> nn.Module:
    """The class of both teacher and student: it normalises by itself, so torchdistill need not."""
    return build_model(
        **ARCHITECTURE, num_classes=CLASSES, in_channels=CHANNELS, image_size=IMAGE_SIZE, **STATISTICS
    )


def take_turns(core: str) -> tuple[Turns, torch.device]:
    """Bind this process to the core and to the one thread that a side has; its turns, and where it trains."""
    os.sched_setaffinity(0, [int(core)])
    torch.set_num_threads(1)
    return Turns(default_clock()), torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""A network, data, an objective and a perturbation of one's own, for own_code.yaml."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ekd_train.data import Source, Split
from ekd_train.objectives import Objective, Predictions
from ekd_train.perturbations import Draw, Networks
from ekd_train.settings import DataSettings, Distillation


class PatchNet(nn.Module):
    """A small transformer over square patches; `width` is `architecture.width`, if that is set."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        channels = round(16 * width)
        self.patches = nn.Conv2d(in_channels, channels, kernel_size=4, stride=4)
        self.position = nn.Parameter(torch.zeros(1, (image_size // 4) ** 2, channels))
        self.block = nn.TransformerEncoderLayer(channels, 2, 2 * channels, dropout=0.0, batch_first=True)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(b, channel, h, w)` to logits `(b, c)`."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.block(tokens).mean(1))


def stripes(settings: DataSettings, *, noise: int = 128) -> Source:
    """Stripes of four directions under noise: `settings` has `root` and whatever else is set of `data`.

    `noise`, an option, is below how many grey levels.
    """
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:8, :8]
    directions = np.stack([rows, columns, rows + columns, rows - columns]) % 4 < 2
    labels = np.arange(600) % 4
    noises = generator.integers(0, noise, (600, 8, 8))
    images = (directions[labels] * (255 - noise) + noises).astype(np.uint8)[:, None]
    return Source(
        train=Split(images[:400], labels[:400]),
        test=Split(images[400:], labels[400:]),
        class_names=("across", "down", "falling", "rising"),
        official_order=False,
    )


class SquaredError(Objective):
    """The mean over members of the squared difference of the softmaxes, member m's from teacher m's."""

    needs_teachers = True

    def __init__(self, settings: Distillation) -> None:
        self.temperature = settings.temperature

    def __call__(self, predictions: Predictions) -> dict[str, Tensor]:
        """The loss, a mean over the batch, and the terms to log."""
        assert predictions.teachers is not None
        student, teachers = (
            F.softmax(logits / self.temperature, -1) for logits in (predictions.student, predictions.teachers)
        )
        loss = (student - teachers).square().sum(-1).mean()
        return {"loss": loss, "squared_error": loss.detach()}


def uniform(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """What is added at strength 1: uniform noise of one grey level root mean square."""
    return 3**0.5 * draw.uniform(images.shape[1:], like=images) / 255

"""A network with its normalisation inside, so that everything outside speaks pixels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """`(x - mean) / std` per channel.

    Mean and std are settings, not weights: the buffers move with the module, but stay out of its
    state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean and std must have one value a channel, got {len(mean)} and {len(std)}")
        if not all(value > 0 for value in std):
            raise ValueError(f"std must be positive, got {list(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(b, channel, h, w)` in [0, 1] to about zero mean and unit variance.

        One channel becomes as many as there are means.
        """
        return (images - self.mean) / self.std


class Classifier(nn.Module):
    """Images `(b, channel, h, w)` in [0, 1] to logits `(b, c)`.

    The state dict has the keys of `network` under `network.` and nothing else: with that prefix
    taken off it loads into the stock class. With `image_size`, images of another size are resized to
    that many pixels square first (bilinear, antialiased: torchvision's `resize`), whose gradient reaches
    the pixels that were given.
    """

    def __init__(self, normalise: Normalise, network: nn.Module, image_size: int | None = None) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(b, c)`."""
        if self.image_size is not None and images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
        return self.network(self.normalise(images))

"""The random choices of one perturbation, made once for a global batch and shared by all workers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ekd_train.data.transfer import to_device

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Draw:
    """The random choices for `stop - start` images of a global batch of `batch_size`.

    Values per image (noise, directions) are not stored but drawn again from `seed`, for the whole
    global batch, and cut to these rows: so a draw needs to know neither the image's shape nor the
    number of classes, and any number of workers sees the same values.

    Attributes:
        teachers: indices of the drawn teachers, different, in order; the same for every image.
        seed: of the values per image.
        batch_size: images in the global batch.
        start, stop: this draw's rows of it.
    """

    teachers: tuple[int, ...]
    seed: int
    batch_size: int
    start: int
    stop: int

    def rows(self, start: int, stop: int) -> "Draw":
        """The choices for images `[start, stop)` of this draw's own.

        Raises `ValueError`: the rows are not within the draw.
        """
        if not 0 <= start <= stop <= self.stop - self.start:
            raise ValueError(f"rows [{start}, {stop}) are not within {self.stop - self.start} images")
        return replace(self, start=self.start + start, stop=self.start + stop)

    def normal(self, shape: torch.Size, like: Tensor) -> Tensor:
        """N(0, 1), `(stop - start, *shape)`, of the dtype and device of `like`."""
        drawn_on, generator = self._source(like.device)
        values = torch.randn(self.batch_size, *shape, generator=generator, device=drawn_on)
        return to_device(values[self.start : self.stop], like.device).to(like.dtype)

    def uniform(self, shape: torch.Size, like: Tensor) -> Tensor:
        """U(-1, 1), `(stop - start, *shape)`, of the dtype and device of `like`."""
        drawn_on, generator = self._source(like.device)
        values = torch.rand(self.batch_size, *shape, generator=generator, device=drawn_on)
        return to_device(2 * values[self.start : self.stop] - 1, like.device).to(like.dtype)

    def _source(self, device: torch.device) -> tuple[torch.device, torch.Generator]:
        """Where values are drawn, and from what: a GPU draws its own, which are others than the host's."""
        place = device if device.type == "cuda" else torch.device("cpu")
        return place, torch.Generator(place).manual_seed(self.seed)


def draw_choices(generator: torch.Generator, *, batch_size: int, num_teachers: int, drawn: int) -> Draw:
    """Draw `drawn` different teachers out of `num_teachers`, every ordered choice as likely, and a seed."""
    remaining = list(range(num_teachers))
    teachers = tuple(remaining.pop(_integer(generator, below=len(remaining))) for _ in range(drawn))
    return Draw(teachers, _integer(generator, below=_LARGEST_SEED), batch_size, 0, batch_size)


def _integer(generator: torch.Generator, *, below: int) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device).item())

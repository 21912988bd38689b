"""How far metrics may be off because the test images are a sample: a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ekd_train.metrics import ECE_BINS, PROB_FLOOR

METRICS = ("accuracy", "nll", "ece", "brier")
_IMAGES_AT_ONCE = 4_000_000
"""Counts held at a time: resamples x images."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval; `value` is that of the images themselves, not of a resample."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: the sign is not an accident of which images were drawn."""
        return self.low > 0 or self.high < 0


class Bootstrap:
    """Metrics of several predictors on resampled images (Efron and Tibshirani 1993, chapter 13).

    Every resample draws as many images as there are, with replacement, and is the same for all
    predictors, so that differences are paired. The definitions are those of `ekd_train.metrics`, in
    float64. Training is not repeated: the intervals say nothing about other seeds.

    Args:
        probs: for each predictor its probabilities `(b, c)` of the same images.
        labels: `(b,)`.
        resamples: how many.
        seed: of the draws; the same seed gives the same intervals.
        level: fraction of the resamples inside an interval.
    """

    def __init__(
        self,
        probs: Mapping[str, Tensor],
        labels: Tensor,
        *,
        resamples: int = 2000,
        seed: int = 0,
        level: float = 0.95,
    ) -> None:
        self.resamples, self.seed, self.level = resamples, seed, level
        self._values: dict[str, Tensor] = {}
        """For each predictor `(metric, 1 + resamples)`: first the images themselves."""
        parts = {name: _per_image(p, labels) for name, p in probs.items()}
        columns = torch.cat(list(parts.values()), dim=1)
        sums = _resampled_sums(columns, resamples, seed)
        for index, name in enumerate(parts):
            width = columns.shape[1] // len(parts)
            self._values[name] = _metrics(sums[:, index * width : (index + 1) * width], len(labels))

    def of(self, predictor: str, metric: str) -> Interval:
        """The interval of one predictor's metric."""
        return self._interval(self._values[predictor][METRICS.index(metric)])

    def difference(self, predictor: str, reference: str, metric: str) -> Interval:
        """The interval of `predictor`'s metric minus `reference`'s."""
        row = METRICS.index(metric)
        return self._interval(self._values[predictor][row] - self._values[reference][row])

    def _interval(self, values: Tensor) -> Interval:
        tail = (1 - self.level) / 2
        ends = torch.quantile(values[1:], torch.tensor([tail, 1 - tail], dtype=values.dtype))
        return Interval(values[0].item(), ends[0].item(), ends[1].item())


def _per_image(probs: Tensor, labels: Tensor) -> Tensor:
    """What each image adds: correct, -log p, squared error, and its surplus confidence in its ECE bin."""
    probs = probs.double()
    confidence, predicted = probs.max(dim=-1)
    correct = (predicted == labels).double()
    loss = -(probs.gather(1, labels.long().unsqueeze(1)).squeeze(1) + PROB_FLOOR).log()
    one_hot = torch.nn.functional.one_hot(labels.long(), probs.shape[-1])
    squared = (probs - one_hot).square().sum(dim=-1)
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64)
    bins = (torch.bucketize(confidence, edges) - 1).clamp(0, ECE_BINS - 1)
    surplus = torch.zeros(len(labels), ECE_BINS, dtype=torch.float64)
    surplus[torch.arange(len(labels)), bins] = confidence - correct
    return torch.cat([correct[:, None], loss[:, None], squared[:, None], surplus], dim=1)


def _resampled_sums(columns: Tensor, resamples: int, seed: int) -> Tensor:
    """Sums over the images `(1, f)`, then over each resample `(resamples, f)`, as one tensor."""
    generator = torch.Generator().manual_seed(seed)
    images = len(columns)
    sums = [columns.sum(dim=0, keepdim=True)]
    chunk = max(1, _IMAGES_AT_ONCE // images)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = torch.randint(images, (count, images), generator=generator)
        rows = torch.arange(count).unsqueeze(1).expand_as(drawn)
        counts = torch.zeros(count, images, dtype=torch.float64)
        counts.index_put_((rows, drawn), torch.ones((), dtype=torch.float64), accumulate=True)
        sums.append(counts @ columns)
    return torch.cat(sums)


def _metrics(sums: Tensor, images: int) -> Tensor:
    """`(metric, r)` in the order of `METRICS` from sums `(r, 3 + bins)`."""
    correct, loss, squared = sums[:, 0], sums[:, 1], sums[:, 2]
    calibration = sums[:, 3:].abs().sum(dim=1)
    return torch.stack([correct, loss, calibration, squared]) / images

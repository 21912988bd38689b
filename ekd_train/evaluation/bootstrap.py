"""How far metrics may be off because the test images are a sample: a paired bootstrap."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ekd_train.metrics import (
    ECE_BINS,
    apply_temperature,
    confidence_bins,
    in_blocks,
    per_image,
    squared_error,
)

METRICS = ("accuracy", "nll", "ece", "brier")
CALIBRATED = ("cnll", "cece")
"""Those after the temperature."""
RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
"""Fraction of the resamples inside an interval."""
BIASED = ("ece", "cece")
"""A sum of absolute values: noise adds to it, and a resample has more noise than the images themselves. Of a
calibrated predictor the percentiles lie above its own ECE, so they are moved down by their mean excess. And
the images themselves have noise, more of it the less sure the predictor is: see `Bootstrap`."""
COUNTS_AT_ONCE = 4_000_000
"""Held in memory: resamples x images."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval around `value`, which is that of the images themselves, not of a resample."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: the sign is not an accident of which images were drawn."""
        return self.low > 0 or self.high < 0


class Paired:
    """Intervals of values on the same resamples for all predictors."""

    def __init__(
        self,
        metrics: Sequence[str],
        values: Mapping[str, Tensor],
        by_chance: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """`values`: for each predictor `(metric, 1 + resamples)`: first the images themselves. `by_chance`:
        for each what differences leave out of a metric; without it nothing."""
        self._metrics, self._values, self._by_chance = metrics, values, by_chance or {}

    def of(self, predictor: str, metric: str) -> Interval:
        """The interval of one predictor's metric."""
        return self._interval(self._of(predictor, metric), metric)

    def difference(self, predictor: str, reference: str, metric: str) -> Interval:
        """The interval of `predictor`'s metric minus `reference`'s; of ECE, of both beyond chance."""
        values = self._of(predictor, metric) - self._of(reference, metric)
        ours, theirs = (self._by_chance.get(name, {}).get(metric, 0.0) for name in (predictor, reference))
        return self._interval(values - (ours - theirs), metric)

    def _of(self, predictor: str, metric: str) -> Tensor:
        return self._values[predictor][self._metrics.index(metric)]

    def _interval(self, values: Tensor, metric: str) -> Interval:
        value, resampled = values[0], values[1:]
        tail = (1 - LEVEL) / 2
        ends = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=values.dtype))
        if metric in BIASED:
            ends = ends - (resampled.mean() - value)
        return Interval(value.item(), ends[0].item(), ends[1].item())


class Bootstrap(Paired):
    """Metrics of several predictors on resampled images (Efron and Tibshirani 1993, chapter 13).

    Every resample draws as many images as there are, with replacement, and is the same for all
    predictors, so that differences are paired. The definitions are those of `ekd_train.metrics`, in
    float64. Training is not repeated: the intervals say nothing about other seeds. Nor are the temperatures
    fitted again: they come from other images, and are the same in every resample.

    Differences of ECE, before and after the temperature, are of what each has beyond the ECE that a
    calibrated predictor with its confidences would have by chance, `1/n Σ_bins E|N(0, Σ p (1 - p))|` over the
    n images: else the surer of two calibrated predictors would always be found the better.

    Args:
        probs: for each predictor its probabilities `(b, c)` of the same images, each looked up once.
        labels: `(b,)`.
        temperatures: for every predictor, fitted on validation images; without them no `CALIBRATED` metrics.
        resamples: how many.
        seed: of the draws; the same seed gives the same intervals.

    Raises `ValueError` where only some predictors have a temperature.
    """

    def __init__(
        self,
        probs: Mapping[str, Tensor],
        labels: Tensor,
        temperatures: Mapping[str, float] | None = None,
        *,
        resamples: int = RESAMPLES,
        seed: int = SEED,
    ) -> None:
        if temperatures and temperatures.keys() != probs.keys():
            odd = ", ".join(sorted(temperatures.keys() ^ probs.keys()))
            raise ValueError(f"temperatures must be for all predictors or none; see {odd}")
        parts, by_chance = {}, {}
        for name, table in probs.items():
            temperature = (temperatures or {}).get(name)
            blocks = [
                (_per_image(*block, temperature), _variances(block[0], temperature))
                for block in in_blocks(table, labels)
            ]
            parts[name] = torch.cat([columns for columns, _ in blocks])
            variances = torch.stack([variances for _, variances in blocks]).sum(dim=0)
            by_chance[name] = _by_chance(variances, len(labels))
        columns = torch.cat(list(parts.values()), dim=1)
        sums = _resampled_sums(columns, resamples, seed)
        width = columns.shape[1] // len(parts)
        values = {
            name: _metrics(block, len(labels))
            for name, block in zip(parts, sums.split(width, dim=1), strict=True)
        }
        super().__init__((*METRICS, *CALIBRATED), values, by_chance)


class BootstrapOfMeans(Paired):
    """The same of metrics that are means over the images, of whatever each image's value is.

    `values`: for each predictor, by metric, each image's value `(b,)`; the same metrics for all.
    """

    def __init__(
        self, values: Mapping[str, Mapping[str, Tensor]], *, resamples: int = RESAMPLES, seed: int = SEED
    ) -> None:
        metrics = list(next(iter(values.values())))
        columns = [of[metric].double() for of in values.values() for metric in metrics]
        means = _resampled_sums(torch.stack(columns, dim=1), resamples, seed) / len(columns[0])
        parts = means.T.split(len(metrics))
        super().__init__(metrics, dict(zip(values, parts, strict=True)))


def _per_image(probs: Tensor, labels: Tensor, temperature: float | None) -> Tensor:
    """What each image adds: correct, squared error, -log p, its surplus confidence in its ECE bin.

    The last two again after the temperature, if there is one.
    """
    probs, labels = probs.double(), labels.long()
    columns = [per_image(probs, labels)["accuracy"][:, None], squared_error(probs, labels)[:, None]]
    for one in _scales(probs, temperature):
        columns += [per_image(one, labels)["nll"][:, None], _surplus(one, labels)]
    return torch.cat(columns, dim=1)


def _scales(probs: Tensor, temperature: float | None) -> list[Tensor]:
    """The probabilities as they are, and after the temperature if there is one."""
    return [probs] if temperature is None else [probs, apply_temperature(probs, temperature)]


def _variances(probs: Tensor, temperature: float | None) -> Tensor:
    """`(scales, bins)`: the variance of a bin's surplus if its confidences are right."""
    sums = []
    for one in _scales(probs.double(), temperature):
        confidence, bins = confidence_bins(one)
        surely = confidence.clamp(max=1)  # rounding may leave more
        zeros = torch.zeros(ECE_BINS, dtype=torch.float64)
        sums.append(zeros.index_add_(0, bins, surely * (1 - surely)))
    return torch.stack(sums)


def _by_chance(variances: Tensor, images: int) -> dict[str, float]:
    """The ECE of a calibrated predictor, of `_variances` summed over the images."""
    found = (2 / math.pi * variances).sqrt().sum(dim=1) / images  # E|N(0, v)| is √(2 v / π)
    return dict(zip(BIASED, found.tolist(), strict=False))


def _surplus(probs: Tensor, labels: Tensor) -> Tensor:
    """`(b, bins)`: confidence minus correctness, in the image's bin."""
    confidence, bins = confidence_bins(probs)
    surplus = torch.zeros(len(labels), ECE_BINS, dtype=torch.float64)
    surplus[torch.arange(len(labels)), bins] = confidence - per_image(probs, labels)["accuracy"]
    return surplus


def _resampled_sums(columns: Tensor, resamples: int, seed: int) -> Tensor:
    """Sums over the images `(1, f)`, then over each resample `(resamples, f)`, as one tensor."""
    generator = torch.Generator().manual_seed(seed)
    images = len(columns)
    sums = [columns.sum(dim=0, keepdim=True)]
    sums += [draw_counts(count, images, generator) @ columns for count in at_once(resamples, images)]
    return torch.cat(sums)


def at_once(resamples: int, images: int) -> Iterator[int]:
    """How many resamples to draw at a time, one number after the other; they add up to `resamples`."""
    most = max(1, COUNTS_AT_ONCE // images)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def draw_counts(resamples: int, images: int, generator: torch.Generator) -> Tensor:
    """How often each resample has each image: `(resamples, images)` in float64, each row's sum `images`."""
    drawn = torch.randint(images, (resamples, images), generator=generator)
    counts = torch.zeros(resamples, images, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand_as(drawn))


def _metrics(sums: Tensor, images: int) -> Tensor:
    """`(metric, r)` in the order of `METRICS`, then `CALIBRATED`, from the sums `(r, f)` of `_per_image`."""
    correct, squared = sums[:, 0], sums[:, 1]
    scores = [
        (block[:, 0], block[:, 1:].abs().sum(dim=1)) for block in sums[:, 2:].split(1 + ECE_BINS, dim=1)
    ]
    (nll, ece), *calibrated = scores
    return (
        torch.stack([correct, nll, ece, squared, *(score for pair in calibrated for score in pair)]) / images
    )

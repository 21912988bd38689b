"""Accuracy, calibration and proper scores of predicted probabilities, all in float64.

An ensemble's probabilities are the mean of its members' softmax first; a temperature comes after
(pool, then calibrate).
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

PROB_FLOOR = 1e-8
"""Added to the label's probability before the logarithm, as the LatentBE authors' code does."""

ECE_BINS = 15

BLOCK_VALUES = 1 << 20
"""Probabilities in a block of `in_blocks`."""

TEMPERATURE_RANGE = (0.05, 20.0)
"""Where `fit_temperature` searches: without a bound, perfectly classified images would give 0."""


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Fraction in [0, 1] of images whose most probable class is the label; of tied classes the first.

    Args:
        probs: `(b, c)` probabilities.
        labels: `(b,)` integers in [0, c).

    Raises `ValueError`: no images, shapes or labels that do not fit, or rows that are not probabilities.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
    0.5
    """
    probs, labels = checked(probs, labels)
    return _hits(probs, labels).mean().item()


def nll(probs: Tensor, labels: Tensor) -> float:
    """Negative log-likelihood in nats, `mean_b -log(p_b,y + 1e-8)`; 0 (to 1e-8) is perfect, at most 18.4.

    The 1e-8 is the LatentBE authors'. By `mean_b log(1 + 1e-8 / p_b,y)` it is below the plain NLL of other
    libraries, which is nothing unless labels have probabilities around 1e-8 and less.

    Arguments and errors as `accuracy`.

    >>> round(nll(torch.tensor([[0.5, 0.5]]), torch.tensor([0])), 4)
    0.6931
    """
    probs, labels = checked(probs, labels)
    return _nll(probs, labels)


def per_image(probs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What each image adds to the metrics that are means over the images: `accuracy` and `nll`, each `(b,)`.

    Arguments and errors as `accuracy`.

    >>> per_image(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))["accuracy"].tolist()
    [1.0, 0.0]
    """
    probs, labels = checked(probs, labels)
    return {"accuracy": _hits(probs, labels), "nll": _losses(probs, labels)}


def ece(probs: Tensor, labels: Tensor) -> float:
    """Expected calibration error in [0, 1] with 15 equal-width bins (Guo et al. 2017).

    `Σ_bins (n_bin / b) · |accuracy in bin - mean confidence in bin|`, where confidence is the largest
    probability and bins are open below and closed above, (lo, hi].

    Arguments and errors as `accuracy`.

    >>> round(ece(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])), 4)
    0.45
    """
    probs, labels = checked(probs, labels)
    return _ece(probs.amax(dim=-1), _hits(probs, labels))


def confidence_bins(probs: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of the probabilities `(b, c)`, float64 `(b,)`, and the number of its bin of `ece`.

    >>> confidence_bins(torch.tensor([[0.9, 0.1]]))[1]
    tensor([13])
    """
    confidence = probs.double().amax(dim=-1)
    return confidence, _bins(confidence)


def brier(probs: Tensor, labels: Tensor) -> float:
    """Brier score in [0, 2]: `mean_b Σ_c (p_b,c - 1[y_b = c])²`, summed over classes; 0 is perfect.

    Arguments and errors as `accuracy`.

    >>> brier(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    0.5
    """
    blocks = in_blocks(*checked(probs, labels))
    return torch.cat([squared_error(*block) for block in blocks]).mean().item()


def squared_error(probs: Tensor, labels: Tensor) -> Tensor:
    """What each image adds to the Brier score, `(b,)`, of float64 `probs (b, c)`.

    >>> squared_error(torch.tensor([[0.5, 0.5]]), torch.tensor([0])).tolist()
    [0.5]
    """
    return (probs - F.one_hot(labels, probs.shape[-1])).square().sum(dim=-1)


def in_blocks(probs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """`probs (b, c)` and `labels (b,)`, some images at a time.

    Of a table of 100,000 images and 1,000 classes, 0.8 GB, each intermediate result would have as much.

    >>> [len(block) for block, _ in in_blocks(torch.ones(5, 1), torch.zeros(5))]
    [5]
    """
    rows = max(1, BLOCK_VALUES // probs.shape[1])
    return zip(probs.split(rows), labels.split(rows), strict=True)


def apply_temperature(probs: Tensor, temperature: float) -> Tensor:
    """`softmax(log p / T)`, float64 `(b, c)`: T > 1 is less confident; T = 1 changes nothing.

    Raises `ValueError`: the temperature is not positive.

    >>> [round(p, 4) for p in apply_temperature(torch.tensor([[0.9, 0.1]]), 2)[0].tolist()]
    [0.75, 0.25]
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    probs = probs.double()
    return probs if temperature == 1 else torch.softmax(probs.log() / temperature, dim=-1)


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises `nll(apply_temperature(probs, T), labels)`.

    Fit it on validation images and apply it to test images. Deterministic, without gradients: a grid
    in log T over `TEMPERATURE_RANGE`, then golden-section search between the neighbours of its best
    point, to a relative precision of 1e-6. Never worse than T = 1 on the images it is fitted on; of
    equally good temperatures of the grid it takes the one nearest to 1.

    Arguments and errors as `accuracy`.

    >>> probs = torch.tensor([[0.9, 0.1]]).repeat(4, 1)  # right for three of four, so 0.75 would be honest
    >>> round(fit_temperature(probs, torch.tensor([0, 0, 0, 1])), 3)
    2.0
    """
    probs, labels = checked(probs, labels)

    def loss(log_temperature: float) -> float:
        return _tempered(probs, labels, math.exp(log_temperature))[0].mean().item()

    low, high = (math.log(bound) for bound in TEMPERATURE_RANGE)
    spacing = (high - low) / 24  # an even number, so that T = 1 is on the grid
    grid = sorted((low + spacing * point for point in range(25)), key=abs)
    coarse = min(grid, key=loss)
    fine = _golden_section(loss, max(low, coarse - spacing), min(high, coarse + spacing))
    # 0 is T = 1 exactly, in case the grid's own point is a rounding away.
    return math.exp(min(0.0, coarse, fine, key=loss))


def all_metrics(probs: Tensor, labels: Tensor, temperature: float | None = None) -> dict[str, float]:
    """`accuracy`, `nll`, `ece`, `brier` and, given a temperature, `cnll` and `cece` at it.

    Args:
        probs: `(b, c)` probabilities.
        labels: `(b,)` integers in [0, c).
        temperature: fitted on *other* images, those of validation.

    >>> sorted(all_metrics(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])))
    ['accuracy', 'brier', 'ece', 'nll']
    """
    metrics = {metric.__name__: metric(probs, labels) for metric in (accuracy, nll, ece, brier)}
    if temperature is not None:
        probs, labels = checked(probs, labels)
        losses, confidence, hits = _tempered(probs, labels, temperature)
        metrics |= {"cnll": losses.mean().item(), "cece": _ece(confidence, hits)}
    return metrics


def _tempered(probs: Tensor, labels: Tensor, temperature: float) -> list[Tensor]:
    """Of each image after the temperature -log p, the largest probability, and whether it is the label's."""
    parts = []
    for block, theirs in in_blocks(probs, labels):
        calibrated = apply_temperature(block, temperature)
        parts.append((_losses(calibrated, theirs), calibrated.amax(dim=-1), _hits(calibrated, theirs)))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _ece(confidence: Tensor, hits: Tensor) -> float:
    per_bin = torch.zeros(ECE_BINS, dtype=torch.float64, device=hits.device)
    per_bin.index_add_(0, _bins(confidence), confidence - hits)
    return (per_bin.abs().sum() / len(hits)).item()


def _bins(confidence: Tensor) -> Tensor:
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64, device=confidence.device)
    # Rounding may leave a confidence just above 1; it belongs to the last bin.
    return (torch.bucketize(confidence, edges) - 1).clamp(0, ECE_BINS - 1)


def _nll(probs: Tensor, labels: Tensor) -> float:
    return _losses(probs, labels).mean().item()


def _hits(probs: Tensor, labels: Tensor) -> Tensor:
    return (probs.argmax(dim=-1) == labels).double()


def _losses(probs: Tensor, labels: Tensor) -> Tensor:
    return -(probs.gather(1, labels.unsqueeze(1)) + PROB_FLOOR).log().squeeze(1)


def checked(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 probabilities and int64 labels on one device, or a ValueError that says what is wrong.

    >>> checked(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))[0].dtype
    torch.float64
    """
    probs, labels = torch.as_tensor(probs).double(), torch.as_tensor(labels)
    if probs.ndim != 2 or 0 in probs.shape:
        raise ValueError(f"probs must be (b, c), neither of them 0, not {tuple(probs.shape)}")
    if labels.shape != probs.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be {len(probs)} integers for probs {tuple(probs.shape)}, "
            f"not {labels.dtype} {tuple(labels.shape)}"
        )
    # 1e-2: what rounding to bfloat16 may do to a row's sum. Logits, and NaN, fail it.
    if not ((probs >= 0).all() and ((probs.sum(dim=-1) - 1).abs() < 1e-2).all()):
        raise ValueError("probs must be probabilities: not negative, rows that sum to 1 (are these logits?)")
    labels = labels.to(probs.device).long()
    if labels.min() < 0 or labels.max() >= probs.shape[1]:
        raise ValueError(f"labels must be in [0, {probs.shape[1]}), not up to {int(labels.max())}")
    return probs, labels


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """The argument between `low` and `high` that minimises a function of one valley, to 1e-6."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-6:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2

"""Telling images of the known classes from others, by how unsure a predictor is of them."""

from __future__ import annotations

import torch
from torch import Tensor


def unsureness(probs: Tensor) -> dict[str, Tensor]:
    """Scores `(n,)` in float64 of probabilities `(s, n, c)`; the higher, the less known an image looks.

    * `max_probability`: 1 - the largest of the pooled probabilities (Hendrycks and Gimpel, ICLR 2017).
    * `entropy`: of the pooled probabilities p̄, in nats.
    * `disagreement`: mutual information `H(p̄) - mean_s H(p_s)` >= 0 in nats (Malinin and Gales 2018): how
      much of the entropy is that members disagree. Not given for a single network, which cannot disagree.

    Raises:
        ValueError: another number of axes, or no images.
    """
    if probs.ndim != 3 or 0 in probs.shape:
        raise ValueError(f"probs must be (s, n, c), none of them 0, not {tuple(probs.shape)}")
    probs = probs.double()
    pooled = probs.mean(0)
    entropy = _entropy(pooled)
    scores = {"max_probability": 1 - pooled.amax(dim=-1), "entropy": entropy}
    if len(probs) > 1:
        scores["disagreement"] = (entropy - _entropy(probs).mean(0)).clamp(min=0)
    return scores


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Area under the ROC curve in [0, 1]: how often an outside image scores higher; ties count a half.

    By ranks (Mann and Whitney). 0.5 is chance, 1 perfect, below 0.5 worse than chance.

    Args:
        inside: scores `(n,)` of images of the known classes.
        outside: scores `(m,)` of others.

    Raises:
        ValueError: one of them is empty, or holds NaN.
    """
    inside, outside = _checked(inside, outside)
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside)
    not_above = torch.searchsorted(ordered, outside, right=True)
    return ((below + not_above).double().mean() / (2 * len(inside))).item()


def fpr_at_95(inside: Tensor, outside: Tensor) -> float:
    """Fraction in [0, 1] of outside images accepted at a threshold that accepts 95 % of those inside.

    Known images are the positives, as in the literature on out-of-distribution detection; 0 is perfect.
    The threshold is the least of the scores that accepts enough. Arguments and errors as `auroc`.
    """
    inside, outside = _checked(inside, outside)
    enough = -(-95 * len(inside) // 100)  # in integers: 0.95 has no exact float
    threshold = inside.sort().values[enough - 1]
    return (outside <= threshold).double().mean().item()


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(dim=-1)


def _checked(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    inside, outside = torch.as_tensor(inside).double(), torch.as_tensor(outside).double()
    for scores in (inside, outside):
        if scores.ndim != 1 or len(scores) == 0 or scores.isnan().any():
            raise ValueError(f"scores must be (n,), not empty and not NaN, not {tuple(scores.shape)}")
    return inside, outside

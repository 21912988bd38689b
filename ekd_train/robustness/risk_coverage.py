"""Answering only where a predictor is sure: the error among the answered images, by how many are answered.

Geifman and El-Yaniv, *Selective Classification for Deep Neural Networks*, NeurIPS 2017; the area and its
excess over the best order: Geifman, Uziel and El-Yaniv, ICLR 2019.
"""

import torch
from torch import Tensor


def risk_coverage(probs: Tensor, labels: Tensor) -> Tensor:
    """Risk `(n,)` at coverage 1/n, 2/n, ..., 1, float64: errors among the k surest images, over k.

    Of `probs (n, c)` and integer `labels (n,)`. Sureness is the largest probability. Images that are equally
    sure come in no order: each counts with the error rate of all of them. Raises `ValueError`: no images, or
    shapes that do not fit.
    """
    if probs.ndim != 2 or len(probs) == 0 or labels.shape != probs.shape[:1]:
        raise ValueError(
            f"probs must be (n, c) and labels (n,), not {tuple(probs.shape)}, {tuple(labels.shape)}"
        )
    confidence, predicted = probs.double().max(dim=-1)
    values, group = torch.unique(-confidence, return_inverse=True)
    wrong = (predicted != labels).double()
    sizes = torch.zeros_like(values).index_add(0, group, torch.ones_like(wrong))
    errors = torch.zeros_like(values).index_add(0, group, wrong)
    expected = (errors / sizes).repeat_interleave(sizes.long())
    return _running_mean(expected)


def aurc(risk: Tensor) -> float:
    """Area under a risk-coverage curve, in [0, 1]: the mean risk over all coverages; 0 is perfect."""
    return risk.mean().item()


def excess_aurc(risk: Tensor) -> float:
    """What of `aurc` is due to the order: minus that of the same errors, all put last; 0 is the best."""
    images = len(risk)
    errors = round(images * risk[-1].item())
    best = torch.zeros(images, dtype=torch.float64, device=risk.device)
    best[images - errors :] = 1
    return max(0.0, aurc(risk) - aurc(_running_mean(best)))


def _running_mean(values: Tensor) -> Tensor:
    return values.cumsum(0) / torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)

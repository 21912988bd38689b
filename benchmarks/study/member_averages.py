"""Is there a better average of the same members than their mean? Chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.study.weight_averages import with_new_statistics
from ekd_train.data.tensors import DeviceData
from ekd_train.evaluation.evaluate import predict
from ekd_train.metrics import accuracy, nll
from ekd_train.models.subnetworks import Subnetworks

PICKS = 8
"""Of the search for weights, which are multiples of 1 / `PICKS`."""

STATISTICS_FROM = 1000
"""Training images, at most, on which batch statistics are measured anew."""


def averages(student: Subnetworks, data: DeviceData) -> dict[str, nn.Module]:
    """Plain networks of a trained student's members, by how they were averaged."""
    validation = data.training.validation

    def score(of: Callable[[Tensor, Tensor], float], weights: Tensor) -> float:
        return of(predict(student.averaged(weights), validation.images).mean(0), validation.labels)

    losses = partial(score, nll)
    found = {
        "mean": student.averaged(),
        "greedy soup": student.averaged(greedy_soup(student.num_members, partial(score, accuracy))),
        "weights": student.averaged(picked(student.num_members, losses)),
    }
    images = data.training.train.images
    some = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:STATISTICS_FROM]
    found["statistics anew"] = with_new_statistics(student.averaged(), images[some.to(images.device)])
    return found


def greedy_soup(members: int, accuracy_of: Callable[[Tensor], float]) -> Tensor:
    """Weights of the members that a greedy soup takes (Wortsman et al., ICML 2022, recipe 1).

    In the order of their own accuracy, each that does not lower the average's.

    >>> greedy_soup(3, lambda weights: float(weights @ torch.tensor([0.5, 0.9, 0.7])))
    tensor([0., 1., 0.])
    """
    alone = torch.eye(members)
    order = sorted(range(members), key=lambda member: accuracy_of(alone[member]), reverse=True)
    taken, best = [order[0]], accuracy_of(alone[order[0]])
    for member in order[1:]:
        tried = accuracy_of(alone[[*taken, member]].mean(0))
        if tried >= best:
            taken, best = [*taken, member], tried
    return alone[taken].mean(0)


def picked(members: int, loss_of: Callable[[Tensor], float]) -> Tensor:
    """The best weights on the way of `PICKS` picks, with replacement, each the best next one.

    Caruana et al. (ICML 2004) select an ensemble so; here weights are averaged in the place of predictions.

    >>> wanted = torch.tensor([0.25, 0.75])
    >>> picked(2, lambda weights: float((weights - wanted).abs().sum()))
    tensor([0.2500, 0.7500])
    """
    counts = torch.zeros(members)
    best, least = counts, float("inf")
    for number in range(1, PICKS + 1):
        tried = {member: (counts + torch.eye(members)[member]) / number for member in range(members)}
        losses = {member: loss_of(weights) for member, weights in tried.items()}
        member = min(losses, key=losses.__getitem__)
        counts = counts + torch.eye(members)[member]
        if losses[member] < least:
            best, least = tried[member], losses[member]
    return best

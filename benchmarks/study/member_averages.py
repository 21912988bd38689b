"""Is there a better average of the same members than their mean? Chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.study.weight_averages import with_new_statistics
from ekd_train.data.tensors import DeviceData
from ekd_train.evaluation.evaluate import predict
from ekd_train.evaluation.member_weights import member_weights
from ekd_train.metrics import accuracy
from ekd_train.models.subnetworks import Subnetworks

STATISTICS_FROM = 1000
"""Training images, at most, on which batch statistics are measured anew."""


def averages(student: Subnetworks, data: DeviceData) -> dict[str, nn.Module]:
    """Plain networks of a trained student's members, by how they were averaged."""
    validation = data.training.validation

    def accuracy_of(weights: Tensor) -> float:
        return accuracy(predict(student.averaged(weights), validation.images).mean(0), validation.labels)

    weights = member_weights(student, validation)
    assert weights is not None
    found = {
        "mean": student.averaged(),
        "greedy soup": student.averaged(greedy_soup(student.num_members, accuracy_of)),
        "weights": student.averaged(torch.tensor(weights)),
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

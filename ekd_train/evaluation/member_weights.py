"""How much each member counts in a student's average, picked on validation images."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ekd_train.data.tensors import Images
from ekd_train.distributed import Workers
from ekd_train.evaluation.evaluate import predict
from ekd_train.metrics import nll
from ekd_train.models.build_network import averaged
from ekd_train.models.subnetworks import Subnetworks

PICKS = 8
"""Of the search; weights are multiples of 1 / n for an n of at most these."""


def member_weights(
    student: nn.Module, validation: Images, workers: Workers = Workers()
) -> tuple[float, ...] | None:
    """The weights whose average has the lowest NLL on `validation`, as far as `picked` sees.

    The mean of all members is tried too, so that the weights are never worse there than it is. None: a plain
    network, which has no members. All `workers` must call it, and get the same. At most
    `PICKS * num_members + 1` passes of a plain network over the images.
    """
    if not isinstance(student, Subnetworks):
        return None

    @cache  # 1/2 of a member is 2/4 of it
    def loss(*weights: float) -> float:
        plain = averaged(student, torch.tensor(weights))
        return nll(predict(plain, validation.images, workers).mean(0), validation.labels)

    def loss_of(weights: Tensor) -> float:
        return loss(*weights.tolist())

    count = student.num_members
    mean = torch.full((count,), 1 / count)
    return tuple(min(mean, picked(count, loss_of), key=loss_of).tolist())


def picked(members: int, loss_of: Callable[[Tensor], float]) -> Tensor:
    """The best weights `(members,)` on the way of `PICKS` picks, with replacement, each the best next one.

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

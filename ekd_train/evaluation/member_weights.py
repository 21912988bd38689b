"""How much each member counts in a student's average, picked on validation images."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ekd_train.data.tensors import Images
from ekd_train.distributed import Workers
from ekd_train.evaluation.evaluate import predict_logits
from ekd_train.metrics import nll
from ekd_train.models.build_network import averaged
from ekd_train.models.subnetworks import Subnetworks

MOST_IMAGES = 10_000
"""Of the validation images: every pick passes over all of these, for each member."""
PICKS = 8
"""Of the search; weights are multiples of 1 / n for an n of at most these."""


def member_weights(
    student: nn.Module,
    validation: Images,
    workers: Workers = Workers(),
    passed: Callable[[int], None] = lambda _: None,
) -> tuple[float, ...] | None:
    """The weights whose average has the lowest NLL on `validation`, as far as `picked` sees.

    The mean of all members is tried too, so that the weights are never worse there than it is. None: a plain
    network, which has no members. All `workers` must call it, and get the same. At most
    `PICKS * num_members + 1` passes of a plain network over the images, `MOST_IMAGES` at most; `passed` is
    called with the number of each.
    """
    if not isinstance(student, Subnetworks):
        return None
    count = min(len(validation.labels), MOST_IMAGES)
    labels, passes = validation.labels[:count], 0

    @cache  # 1/2 of a member is 2/4 of it
    def loss(*weights: float) -> float:
        nonlocal passes
        plain = averaged(student, torch.tensor(weights))
        logits = predict_logits(plain, validation.images, workers, rows=range(count))
        passed(passes := passes + 1)
        # The first worker's: of unlike processors a rounding could part those that pick for themselves.
        return workers.gather(nll(logits.softmax(dim=-1).mean(0), labels))[0]

    def loss_of(weights: Tensor) -> float:
        return loss(*weights.tolist())

    members = student.num_members
    mean = torch.full((members,), 1 / members)
    return tuple(min(mean, picked(members, loss_of), key=loss_of).tolist())


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

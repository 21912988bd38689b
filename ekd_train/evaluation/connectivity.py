"""Whether members lie in one basin: the loss between them, and on the way to their average."""

from functools import cache

import torch
from torch import Tensor

from ekd_train.evaluation.evaluate import predict
from ekd_train.metrics import nll
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm
from ekd_train.persistence.records import Connectivity

POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_IMAGES = 2000


def connectivity(
    student: Subnetworks, images: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Connectivity:
    """NLL along the segments from each member to the next, and from each member to the average of all.

    Linear mode connectivity (Frankle, Dziugaite, Roy, Carbin, ICML 2020), in the weights that averaging takes
    the mean of: of LatentBE the factors. A barrier, a loss above the straight line between the ends, says
    that members lie in different basins, so that their mean is not among what training found.

    Args:
        student: with at least one member.
        images: uint8 `(n, channel, height, width)`; `MOST_IMAGES` are enough.
        labels: `(n,)`.
        weights: `(s,)`, of the members in the average; None: they count alike.
    """
    members = torch.eye(student.num_members)
    centre = members.mean(0) if weights is None else weights

    @cache  # segments share their ends
    def loss(*weights: float) -> float:
        return _loss(student, torch.tensor(weights), images, labels)

    def losses(start: Tensor, end: Tensor) -> tuple[float, ...]:
        return tuple(loss(*torch.lerp(start, end, point).tolist()) for point in POINTS)

    following = members.roll(-1, dims=0) if student.num_members > 2 else members[1:]
    return Connectivity(
        images=len(images),
        points=POINTS,
        between=tuple(losses(*pair) for pair in zip(members, following, strict=False)),
        to_average=tuple(losses(member, centre) for member in members),
    )


def _loss(student: Subnetworks, weights: Tensor, images: Tensor, labels: Tensor) -> float:
    plain = from_synchronised_batch_norm(student.averaged(weights))
    return nll(predict(plain, images).mean(0), labels)

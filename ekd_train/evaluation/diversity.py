"""How differently members, or teachers, predict."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ekd_train.metrics import PROB_FLOOR


def diversity(probs: Tensor) -> dict[str, float]:
    """Diversity of several predictors of the same images, from probabilities `(s, b, c)`.

    `pairwise_kl` >= 0 is `mean over i != j and b of KL(p_i,b ‖ p_j,b)` over ordered pairs, in nats, with the
    1e-8 of `metrics.nll` inside the logarithms; `agreement` in [0, 1] the fraction of images on which two of
    them predict the same class, averaged over pairs. Computed in float64, in time linear in s. Nothing for a
    single predictor, which has no pair. Raises `ValueError`: another number of axes, or no images.

    >>> import torch
    >>> diversity(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
    {'pairwise_kl': 0.0, 'agreement': 1.0}
    """
    if probs.ndim != 3 or 0 in probs.shape:
        raise ValueError(f"probs must be (s, b, c), none of them 0, not {tuple(probs.shape)}")
    return {name: value.item() for name, value in _measured(probs).items()}


def diversity_of_blocks(blocks: Iterable[Tensor]) -> dict[str, float]:
    """`diversity` of probabilities that come as `(s, rows, c)`, one image after the other.

    >>> import torch
    >>> probs = torch.rand(3, 4, 5).softmax(-1)
    >>> diversity_of_blocks(probs.split(2, dim=1)).keys() == diversity(probs).keys()
    True
    """
    total, images = dict.fromkeys(("pairwise_kl", "agreement"), 0.0), 0
    for block in blocks:
        if not (found := diversity(block)):
            return {}
        images += block.shape[1]
        total = {name: total[name] + value * block.shape[1] for name, value in found.items()}
    return {name: value / images for name, value in total.items()}


@torch.no_grad()
def diversity_in_training(logits: Tensor | None) -> dict[str, Tensor]:
    """`diversity` of `logits (s, b, c)` at temperature 1, left on their device; nothing for None."""
    return {} if logits is None else _measured(F.softmax(logits.double(), dim=-1))


def _measured(probs: Tensor) -> dict[str, Tensor]:
    """In float64. Σ over ordered pairs of p_i · (log p_i - log p_j) is `s Σ_i p_i · log p_i - Σ_i p_i · Σ_j
    log p_j`; with n_c votes for class c, Σ_c n_c (n_c - 1) of the s (s - 1) ordered pairs agree."""
    members, images, classes = probs.shape
    if members == 1:
        return {}
    votes = F.one_hot(probs.argmax(dim=-1), classes).sum(dim=0).double()
    probs = probs.double()
    log_probs = (probs + PROB_FLOOR).log()
    own = members * (probs * log_probs).sum()
    crossed = (probs.sum(dim=0) * log_probs.sum(dim=0)).sum()
    pairs = members * (members - 1)
    return {
        "pairwise_kl": ((own - crossed) / (pairs * images)).clamp(min=0),
        "agreement": ((votes * (votes - 1)).sum(dim=-1) / pairs).mean(),
    }

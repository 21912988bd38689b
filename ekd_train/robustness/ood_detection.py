"""Out-of-distribution detection: images of unknown classes found by how unsure a predictor is of them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ekd_train.evaluation.bootstrap import RESAMPLES, SEED, Paired, at_once, draw_counts

SCORES = ("max_probability", "entropy", "disagreement")
"""Of `unsureness`."""
MERITS = ("auroc", "fpr_at_95")
"""How well a score detects foreign images: the functions of these names."""


def unsureness(probs: Tensor) -> dict[str, Tensor]:
    """Scores `(n,)` in float64 of probabilities `(s, n, c)`; the higher, the less known an image looks.

    * `max_probability`: 1 - the largest of the pooled probabilities (Hendrycks and Gimpel, ICLR 2017).
    * `entropy`: of the pooled probabilities p̄, in nats.
    * `disagreement`: mutual information `H(p̄) - mean_s H(p_s)` >= 0 in nats (Malinin and Gales 2018): how
      much of the entropy is that members disagree. Not given for a single network, which cannot disagree.

    Raises `ValueError`: another number of axes, or no images.
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

    By ranks (Mann and Whitney), of scores `(n,)` of the known classes and `(m,)` of others. 0.5 is chance, 1
    perfect, below 0.5 worse than chance. Raises `ValueError`: one of them is empty, or holds NaN.
    """
    return _Ranked(inside, outside).as_they_are()[0, 0].item()


def fpr_at_95(inside: Tensor, outside: Tensor) -> float:
    """Fraction in [0, 1] of outside images accepted at a threshold that accepts 95 % of those inside.

    Known images are the positives, as in the literature on out-of-distribution detection; 0 is perfect.
    The threshold is the least of the scores that accepts enough. Arguments and errors as `auroc`.
    """
    return _Ranked(inside, outside).as_they_are()[1, 0].item()


class BootstrapOfDetection(Paired):
    """`MERITS` of several predictors on resampled images; known and foreign ones are resampled apart.

    The resamples are the same for all predictors, so that differences are paired. As in `Bootstrap`,
    intervals say nothing about other seeds of the training.

    `inside`: for each predictor its scores `(n,)` of the same known images; `outside`: for each its scores
    `(m,)` of the same others. Raises `ValueError`: scores that `auroc` refuses.
    """

    def __init__(
        self, inside: Mapping[str, Tensor], outside: Mapping[str, Tensor], *, resamples: int = RESAMPLES
    ) -> None:
        scores = {name: _Ranked(inside[name], outside[name]) for name in inside}
        known, foreign = (len(next(iter(of.values()))) for of in (inside, outside))
        # Each has a generator of its own, so that the draws do not depend on how many are made at once.
        draws = [torch.Generator().manual_seed(two) for two in (2 * SEED, 2 * SEED + 1)]
        found = {name: [ranked.as_they_are()] for name, ranked in scores.items()}
        for count in at_once(resamples, max(known, foreign)):
            counts = draw_counts(count, known, draws[0]), draw_counts(count, foreign, draws[1])
            for name, ranked in scores.items():
                found[name].append(ranked.merits(*counts))
        super().__init__(MERITS, {name: torch.cat(parts, dim=1) for name, parts in found.items()})


class _Ranked:
    """Scores of known images `(n,)` and of others `(m,)` in their order, to be counted again and again."""

    def __init__(self, inside: Tensor, outside: Tensor) -> None:
        inside, outside = _checked(inside, outside)
        self._known, self._known_order = inside.sort()
        self._foreign, self._foreign_order = outside.sort()
        self._below = torch.searchsorted(self._known, self._foreign)
        self._not_above = torch.searchsorted(self._known, self._foreign, right=True)

    def as_they_are(self) -> Tensor:
        """`MERITS` `(2, 1)` of the images themselves."""
        once = (torch.ones(1, len(scores)).double() for scores in (self._known, self._foreign))
        return self.merits(*once)

    def merits(self, known: Tensor, foreign: Tensor) -> Tensor:
        """`MERITS` `(2, r)` of r resamples that have the images as often as `(r, n)` and `(r, m)` say."""
        up_to = _counted(known[:, self._known_order])
        foreign = foreign[:, self._foreign_order]
        lower = up_to[:, self._below] + up_to[:, self._not_above]
        area = (foreign * lower).sum(dim=1) / (2 * known.shape[1] * foreign.shape[1])
        last = (up_to[:, 1:] < _enough(known.shape[1])).sum(dim=1)
        accepted = torch.searchsorted(self._foreign, self._known[last], right=True)
        rate = _counted(foreign).gather(1, accepted[:, None])[:, 0] / foreign.shape[1]
        return torch.stack([area, rate])


def _counted(counts: Tensor) -> Tensor:
    """`(r, n + 1)`: how many there are among the first 0, 1, ..., n."""
    return torch.nn.functional.pad(counts.cumsum(dim=1), (1, 0))


def _enough(known: int) -> int:
    return -(-95 * known // 100)  # in integers: 0.95 has no exact float


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(dim=-1)


def _checked(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    inside, outside = torch.as_tensor(inside).double(), torch.as_tensor(outside).double()
    for scores in (inside, outside):
        if scores.ndim != 1 or len(scores) == 0 or scores.isnan().any():
            raise ValueError(f"scores must be (n,), not empty and not NaN, not {tuple(scores.shape)}")
    return inside, outside

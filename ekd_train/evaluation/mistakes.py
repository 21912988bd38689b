"""The images that a network gets wrong and is surest of."""

from torch import Tensor

SHOWN = 12


def confident_mistakes(probs: Tensor, labels: Tensor, count: int = SHOWN) -> Tensor:
    """Indices of the images whose likeliest class is not their label, the most confident first.

    `probs (n, c)`, `labels (n,)`; the answer is int64 `(m,)` with m at most `count`. Of equally confident
    ones the earlier image comes first.
    """
    confidence, predicted = probs.max(dim=-1)
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)[:count]]

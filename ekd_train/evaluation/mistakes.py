"""The images that a network gets wrong and is surest of."""

from torch import Tensor

SHOWN = 12


def confident_mistakes(confidence: Tensor, predicted: Tensor, labels: Tensor, count: int = SHOWN) -> Tensor:
    """Indices of the images whose likeliest class is not their label, the most confident first.

    All `(n,)`: the largest probability, its class, the label. The answer is int64 `(m,)` with m at most
    `count`. Of equally confident ones the earlier image comes first.
    """
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)[:count]]

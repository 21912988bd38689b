"""What every student with several subnetworks offers, whatever they share inside."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Subnetworks(nn.Module, ABC):
    """A student of `num_members` subnetworks that can be averaged into one plain network.

    `BatchEnsemble` (members share all weights but rank-one factors) and `Branched` (branches
    share the early stages) are the two kinds.
    """

    num_members: int

    @abstractmethod
    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Logits `(s, b, c)` of the named members, or of all, for the same `images (b, ...)`.

        Only the named members are computed: `members=[i]` costs one network. The leading axis
        follows the order of `members`. Raises `ValueError` for an index outside
        `range(num_members)` and for an empty selection.
        """

    @abstractmethod
    def averaged(self, weights: Tensor | None = None) -> nn.Module:
        """The plain network of the mean of the members' weights; this module is left alone.

        `weights (s,)`: how much each member counts, their sum 1; None: all alike. One of 1 and zeros is that
        member alone.
        """

    def chosen(self, members: Sequence[int] | None) -> tuple[int, ...]:
        """The indices that `members` stands for, checked."""
        if members is None:
            return tuple(range(self.num_members))
        chosen = tuple(members)
        if not chosen or not all(0 <= member < self.num_members for member in chosen):
            raise ValueError(f"members must be indices in 0..{self.num_members - 1}, got {list(chosen)}")
        return chosen

"""What of an experiment's networks exists already. No torch, 2 s that wrong input need not wait for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Given:
    """Weights that exist already, and what was found of them."""

    weights: "Mapping[str, Mapping[str, Tensor]]" = field(default_factory=dict)
    """State dicts of classifiers, without a head that is made new, by the SHA-256 of what was read."""
    lines: tuple[str, ...] = ()
    """What each is, and what a given teacher is worth."""
    warnings: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    """What was read from elsewhere than the experiment says, or is not what it was in an earlier run."""

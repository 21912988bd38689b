"""What to do about a failure: pure decisions, tested as a table; others act on them."""

from __future__ import annotations

from typing import Literal

FailureKind = Literal["hopeless", "transient"]

HOPELESS = (
    "TrainingDiverged",
    "DamagedCheckpoint",
    "ValueError",
    "TypeError",
    "KeyError",
    "AttributeError",
    "NotImplementedError",
    "AssertionError",
    "ImportError",
    "MemoryError",
    "OutOfMemoryError",
)
"""Names of exceptions that the same code on the same input raises again."""


def failure_kind(error: BaseException) -> FailureKind:
    """Whether trying again could help.

    Hopeless is what depends on settings, data and code alone. Everything else (lost connections,
    storage that is away, a peer that died) is transient: the worker group is started again and
    the run continues from its last checkpoint, as often as `cluster.max_failures` says.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    return "hopeless" if names.intersection(HOPELESS) else "transient"

"""What to do about a failure: pure decisions, tested as a table; others act on them."""

import re
from typing import Literal

from orchestrator.runtime.ray_errors import MEANINGS

FailureKind = Literal["hopeless", "transient"]

OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")

HOPELESS = (
    "TrainingDiverged",
    "ComputationDiffers",
    "DamagedCheckpoint",
    "TakenOver",
    "ValueError",
    "TypeError",
    "KeyError",
    "AttributeError",
    "IndexError",
    "NameError",
    "ZeroDivisionError",
    "NotImplementedError",
    "AssertionError",
    "ImportError",
    *OUT_OF_MEMORY,
)
"""Names of exceptions that the same code on the same input raises again."""


def failure_kind(error: BaseException) -> FailureKind:
    """Whether trying again could help.

    Hopeless is what depends on settings, data and code alone. Everything else (lost connections,
    storage that is away, a peer that died) is transient: the worker group is started again and
    the run continues from its last checkpoint, as often as `cluster.max_failures` says. Of Ray's own
    exceptions, some of which are a ValueError too, the table decides.
    """
    if type(error).__module__ == "ray.exceptions" and (meaning := MEANINGS.get(type(error).__name__)):
        return "transient" if meaning.transient else "hopeless"
    return "hopeless" if _names(error).intersection(HOPELESS) else "transient"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was short. Hopeless for a run; trials share it, so that another try may find more."""
    return bool(_names(error).intersection(OUT_OF_MEMORY))


def cause_of(text: str) -> str:
    """One line of Ray's text on a failure: the exception that a quoted traceback ends in.

    >>> cause_of("Training failed:\\nTraceback (most recent call last):\\n  File x\\nOSError: no route\\n")
    'training failed: OSError: no route'
    """
    named = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Failure)\w*: .*$", text, re.MULTILINE)
    if "Traceback" in text and named:
        text = f"training failed: {named[-1]}"
    return " ".join(text.split())[:500]


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}

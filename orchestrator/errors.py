"""The errors of the command line, and what they promise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ekd_train.errors import EkdError as EkdError

CONTINUES = "what is done is kept; the same command continues from there"


class ExperimentError(EkdError, ValueError):
    """The input as written cannot be used; the message says which key, what is wrong, what to do."""

    exit_status: ClassVar[int] = 2


def causes_of(error: BaseException) -> list[BaseException]:
    """The error, and what it came of, the nearest first."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        hidden = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or hidden
    return found


@contextmanager
def continuable() -> Iterator[None]:
    """What fails in this block says, as its hint, that the same command continues, where it does."""
    try:
        yield
    except ExperimentError:
        raise
    except EkdError as error:
        if error.continues:
            error.hint = CONTINUES
        raise

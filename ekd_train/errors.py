"""The base of every error whose message says all that a user needs."""

from typing import ClassVar


class EkdError(Exception):
    """An error that its message explains: what is wrong, where, and what to do about it.

    The command line prints it as one line, without a traceback, and ends with `exit_status`.
    """

    exit_status: ClassVar[int] = 1
    """1: something failed; 2: the input is wrong, and nothing was started."""
    hint: str | None = None
    """A second line for the user; None: the message says it all."""
    continues: bool = True
    """Whether the same command goes on from what is done, once the cause is gone."""

"""Where results are printed: stdout, whatever it is connected to."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.pipeline.plain_console import PlainConsole


class ResultsConsole(PlainConsole):
    """Results on stdout; a reader who leaves early (`ekd run ... | head -1`) makes nothing fail."""

    def on_broken_pipe(self) -> None:
        """What is still to come goes nowhere, as the reader wants it; rich would exit with 1."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def results_console() -> ResultsConsole:
    """A console as wide as the terminal, or as COLUMNS says; 100 columns in a file."""
    return ResultsConsole(width=shutil.get_terminal_size((100, 24)).columns)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what is waited for, for as long as it is; it leaves no line behind."""
    if not sys.stderr.isatty():
        yield
        return
    with PlainConsole(stderr=True).status(f"{what} ..."):
        yield

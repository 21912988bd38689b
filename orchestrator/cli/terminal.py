"""Where results are printed: stdout, whatever it is connected to."""

import os
import shutil
import sys

from orchestrator.pipeline.plain_console import PlainConsole


class ResultsConsole(PlainConsole):
    """Results on stdout; a reader who leaves early (`ekd run ... | head -1`) makes nothing fail."""

    def on_broken_pipe(self) -> None:
        """What is still to come goes nowhere, as the reader wants it; rich would exit with 1."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def results_console(at_least: int = 0) -> ResultsConsole:
    """A console as wide as the terminal (100 columns in a file), or `at_least` that."""
    columns = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    return ResultsConsole(width=max(columns, at_least))

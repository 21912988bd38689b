"""Where results are printed: stdout, whatever it is connected to."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from orchestrator.experiment.redaction import redacted, visible


class PlainConsole(Console):
    """Prints what it is given, tables' cells too, as plain text: most of it others may have written.

    Rich's markup means nothing here, control characters are shown instead of obeyed, and what looks
    like a credential is left out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text that is printed for a string; `options` as in `rich.console.Console.render_str`."""
        return super().render_str(visible(redacted(text)), **options)


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

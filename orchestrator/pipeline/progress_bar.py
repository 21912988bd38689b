"""How far something is and how long it will take, on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.pipeline.progress import PLAIN_EVERY_S, duration

if TYPE_CHECKING:
    from rich.console import Console

SILENT_S = 3.0
"""What is over by then needs no meter."""


class ProgressBar:
    """A line that is rewritten on a terminal, a line now and then elsewhere; close it before other output."""

    def __init__(self, what: str, console: Console) -> None:
        self.what, self.console = what, console
        self._began = time.monotonic()
        self._next = self._began + (SILENT_S if console.is_terminal else PLAIN_EVERY_S)
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """So many of so many are done."""
        now = time.monotonic()
        if now < self._next:
            return
        left = (now - self._began) * (total - done) / done if done else None
        text = f"{self.what}: {done:,} of {total:,} ({100 * done // total} %), {duration(left)} left"
        if self.console.is_terminal:
            self._next = now + 0.25
            self.console.file.write(f"\r\x1b[2K{text}")
            self.console.file.flush()
            self._shown = True
        else:
            self._next = now + PLAIN_EVERY_S
            self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the line."""
        if self._shown:
            self.console.file.write("\r\x1b[2K")
            self.console.file.flush()

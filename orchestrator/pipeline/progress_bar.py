"""How far something is and how long it will take, on stderr."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.pipeline.progress import PLAIN_EVERY_S, time_left

SILENT_S = 3.0
"""What is over by then needs no bar."""


class ProgressBar:
    """rich's bar on a terminal, a line now and then elsewhere; close it before other output."""

    def __init__(self, what: str, console: Console) -> None:
        self.what, self.console = what, console
        self._began = time.monotonic()
        self._next = self._began + (SILENT_S if console.is_terminal else PLAIN_EVERY_S)
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """So many of so many are done."""
        now = time.monotonic()
        if now < self._next:
            return
        if not self.console.is_terminal:
            self._next = now + PLAIN_EVERY_S
            text = f"{self.what}: {done:,} of {total:,} ({100 * done // total} %)"
            if done < total:
                text += f", {time_left((now - self._began) * (total - done) / done if done else None)}"
            self.console.print(text, highlight=False, soft_wrap=True)
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self._bar.add_task(self.what, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

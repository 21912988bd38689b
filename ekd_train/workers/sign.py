"""What a worker reports of itself every few seconds; imports no torch, for the job queue's sake."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

EVERY_S = 5.0
"""Between two signs of life."""

STEP_FORGOTTEN = 0.99
"""What each step leaves of the longest one before: a GPU makes many steps wait for one."""


@dataclass(frozen=True)
class Sign:
    """That a worker lives, and what it is at."""

    rank: int
    """Among all workers of the pool."""
    host: str
    pid: int
    actor: Any = None
    """Ray's handle of the worker."""
    count: int = 0
    """Signs that it has given."""
    run: str = ""
    """The name of its job; empty: it has none."""
    step: int | None = None
    """The last step that it has done of the whole run; None: what it does now are no steps."""
    step_s: float = 0.0
    """About the longest that a step took lately, in seconds."""
    first: bool = True
    """Whether it reports what its training run does."""

    def __str__(self) -> str:
        return f"worker {self.rank} (process {self.pid} on {self.host})"


@dataclass
class Heart:
    """Gives a sign every `every_s` on a thread of its own; other threads note what the process is at."""

    sign: Sign
    give: Callable[[Sign], None]
    """Sends a sign; must not raise."""
    every_s: float = EVERY_S
    clock: Callable[[], float] = time.monotonic
    _stepped: float | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False)

    def start(self) -> None:
        """Begin; it beats as long as the process lives."""
        threading.Thread(target=self._beat, name="heart", daemon=True).start()

    def about(self, run: str, first: bool) -> None:
        """The worker is at another job; at none if `run` is empty."""
        self._stepped = None
        self.sign = replace(self.sign, run=run, step=None, step_s=0.0, first=first)

    def at(self, step: int | None) -> None:
        """A step was done; None: what follows are no steps."""
        now = self.clock()
        step_s = self.sign.step_s * STEP_FORGOTTEN
        if step is not None and self._stepped is not None:
            step_s = max(step_s, now - self._stepped)
        self._stepped = now if step is not None else None
        self.sign = replace(self.sign, step=step, step_s=step_s)

    def beat(self) -> None:
        """Give a sign now, from whichever thread, which waits until it is given."""
        with self._one_at_a_time:
            self._count += 1
            self.give(replace(self.sign, count=self._count))

    def _beat(self) -> None:
        while True:
            self.beat()
            time.sleep(self.every_s)

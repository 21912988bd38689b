"""A voice for what waits: after 10 s a line says for what, and again every minute."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ekd_train.errors import EkdError

FIRST_S = 10.0
AGAIN_S = 60.0
UNKNOWN = "a process that this host does not know"

log = logging.getLogger(__name__)
"""Whoever has a terminal shows its lines there; without anybody's doing Python writes them to stderr."""


class LockHeld(EkdError):
    """Another process has held a lock for longer than it is waited for."""


class Wait:
    """One wait, by whoever looks now and then whether it is over."""

    def __init__(
        self, what: Callable[[], str], first_s: float = FIRST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`what` is waited for, in words, asked for when they are needed: first after `first_s`."""
        self._what, self._clock = what, clock
        self._began = clock()
        self._next = first_s

    def look(self) -> float:
        """How many seconds it has lasted; says so when it is time."""
        lasted = self._clock() - self._began
        if lasted >= self._next:
            self._next = lasted + AGAIN_S
            log.warning("waiting for %s (%.0f s)", self._what(), lasted)
        return lasted


@contextmanager
def waiting_for(what: Callable[[], str]) -> Iterator[None]:
    """Says what a call waits for that cannot be looked at meanwhile."""
    over = threading.Event()

    def speak() -> None:
        wait, pause_s = Wait(what, FIRST_S), FIRST_S
        while not over.wait(pause_s):
            wait.look()
            pause_s = AGAIN_S

    threading.Thread(target=speak, name="waiting", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def lock_holder(number: int, kind: Literal["FLOCK", "POSIX"] = "FLOCK") -> str:
    """In words, who has the lock of the file of this inode: a process of this host, as Linux says."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            _, *fields = line.split()  # its number; FLOCK or POSIX ADVISORY WRITE pid device:inode start end
            if fields[0] == kind and fields[4].rpartition(":")[2] == str(number):
                return process_in_words(int(fields[3]))
    return UNKNOWN


def process_in_words(pid: int) -> str:
    """A process of this host, and what to do if it stands still.

    >>> import os
    >>> process_in_words(os.getpid()).startswith(f"process {os.getpid()} (")
    True
    """
    try:
        name, _, fields = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return f"process {pid}"
    stopped = fields.split()[0] in ("T", "t")
    advice = f", which is stopped: continue it with `kill -CONT {pid}`, or end it" * stopped
    return f"process {pid} ({name}){advice}"

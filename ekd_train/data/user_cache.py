"""What a user's machine keeps between runs and may lose at any time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ekd_train.waiting import LockHeld, Wait, lock_holder

LONGEST_S = 4 * 3600.0
"""How long a process may take to make a cache, or to fetch data into it, until others give up."""

POLL_S = 0.05


def cache_folder(name: str) -> Path:
    """The cache `name`: `$XDG_CACHE_HOME/ekd/name`, else below `~/.cache`. It need not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ekd" / name


@contextmanager
def locked(path: Path, wait_s: float = LONGEST_S) -> Iterator[None]:
    """Of all processes of the machine only this one is inside; others wait. `path`: a file for the lock.

    Raises `LockHeld` after `wait_s` seconds.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would be waited for, for ever
    with open(os.open(path, flags, 0o666), "wb") as file:
        number = os.fstat(file.fileno()).st_ino
        wait = Wait(lambda: f"{path}, locked by {lock_holder(number)}")
        while not _lock(file.fileno()):
            if wait.look() > wait_s:
                raise LockHeld(f"{path}: for {wait_s:g} s it has been locked by {lock_holder(number)}")
            time.sleep(POLL_S)
        yield  # given up when the file is closed, or the process dies


def _lock(file: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False

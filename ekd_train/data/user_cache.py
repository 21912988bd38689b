"""What a user's machine keeps between runs and may lose at any time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The cache `name`: `$XDG_CACHE_HOME/ekd/name`, else below `~/.cache`. It need not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ekd" / name


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Of all processes of the machine only this one is inside; others wait. `path`: a file for the lock."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given up when the file is closed, or the process dies
        yield

"""How much memory this process may use, as the container that it runs in sees it."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")

SHARE = 0.3
"""Of it, for decoded images: what Ray's object store, through which workers share them, has by default."""


def memory_limit(cgroup: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes: the machine's memory, or less where a control group of this process has a limit.

    Version 2 (`memory.max`) and 1 (`memory.limit_in_bytes`), this process's group and those around it.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for group in _groups(own):
        for file in (
            cgroup / group / "memory.max",
            cgroup / "memory" / group / "memory.limit_in_bytes",
        ):
            try:
                limits.append(int(file.read_text()))
            except (OSError, ValueError):  # there is none; or it says `max`
                continue
    return min(limit for limit in limits if limit > 0)


def _groups(own: Path) -> list[str]:
    """The paths of this process's control groups below `CGROUP`, and of those around them."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    paths = {Path(line.split(":", 2)[2].lstrip("/")) for line in lines if line.count(":") >= 2}
    return sorted(
        {str(group) for path in paths for group in (path, *path.parents) if ".." not in group.parts}
    )


def room_for_images() -> int:
    """Bytes that decoded images may take on this machine."""
    return int(SHARE * memory_limit())

"""Who holds a run's lease: a process, told from every other one, also of other hosts and containers."""

import os
import socket
import time
from pathlib import Path

from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.persistence.records import NewerRecord, Record

LEASE = "owner.json"
"""The name is that of format 1, so that drivers of every version see each other's."""
_ENDED = ("Z", "X")
"""States of a process that has ended and that nobody has waited for: in a container perhaps for ever."""


class Holder(Record):
    """The process that holds a lease, told from every other one, also of other hosts and containers."""

    WHAT = "a run's lease"

    host: str
    boot: str = ""
    """Of its kernel."""
    pids: str = ""
    """Its space of process ids."""
    pid: int
    started: str | None = None
    """When it began, in the kernel's ticks."""
    token: str = ""
    """Of this lease alone."""
    term: int = 0
    """Larger than that of every owner before; 0: of an earlier version of ekd."""
    released: bool = False
    """Whether the run was given up; the number stays, so that the next one is larger."""
    since: float = 0.0
    """When it was taken or renewed, by its host's clock, in seconds since 1970."""

    @property
    def is_on_this_host(self) -> bool:
        """Whether its process id means something in this process: same kernel, same id space."""
        here = this_process()
        return bool(here.boot) and (self.host, self.boot, self.pids) == (here.host, here.boot, here.pids)

    @property
    def has_ended(self) -> bool:
        """Whether it gave the run up, or was a process of this host that has ended."""
        return self.released or (self.is_on_this_host and _start_of(self.pid) != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process(token: str = "", term: int = 0) -> Holder:
    """The holder that this process is."""
    return Holder(
        host=socket.gethostname(),
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        pids=_pid_namespace(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        token=token,
        term=term,
        since=time.time(),
    )


def holder_in(data: bytes) -> Holder | None:
    """The holder that a stored lease names; None if it is damaged, and so holds nobody up.

    Raises `NewerRecord`.
    """
    try:
        return Holder.parse(read_bounded_json(data), LEASE)
    except NewerRecord:
        raise
    except ValueError:
        return None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When that process began, in the kernel's ticks, which tells reused ids apart; None if it has ended."""
    fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in _ENDED else None

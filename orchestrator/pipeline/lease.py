"""One driver at a time runs a run: it holds a lease in the run's storage, renewed while the driver lives.

It works on every storage that has compare-and-swap, so on S3 and across hosts. A driver that was
killed leaves its lease behind: on the same host the next one sees at once that the process is
gone; elsewhere it waits until the lease has expired.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.persistence.records import Record
from orchestrator.errors import EkdError
from orchestrator.storage import Conflict, MissingKey, Storage, StorageError, Version

LEASE = "owner.json"
"""The name is that of format 1, so that drivers of every version see each other's."""
LEASE_S = 60.0
RENEW_S = 15.0
_ENDED = ("Z", "X")
"""States of a process that has ended and that nobody has waited for: in a container perhaps for ever."""


class LeaseHeld(EkdError):
    """Another driver is running this run; the message says which."""


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
    since: float = 0.0
    """When it was taken or renewed, by its host's clock, in seconds since 1970."""

    @property
    def is_on_this_host(self) -> bool:
        """Whether its process id means something in this process: same kernel, same id space."""
        here = this_process()
        return bool(here.boot) and (self.host, self.boot, self.pids) == (here.host, here.boot, here.pids)

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this host that has ended."""
        return self.is_on_this_host and _start_of(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The lease of this process on one run. Use as a context manager."""

    def __init__(self, storage: Storage, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> None:
        self.storage, self.lease_s, self.renew_s = storage, lease_s, renew_s
        self.lost: str | None = None
        self._token = uuid.uuid4().hex
        self._version: Version | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self, waiting: Callable[[str], None] = lambda _: None) -> "Lease":
        """Take the lease, waiting for that of a driver that may have ended to run out if need be.

        `waiting` is called with a line if it has to wait. Raises `LeaseHeld` when the holder is alive.
        """
        seen: Holder | None = None
        deadline = time.monotonic() + self.lease_s
        while True:
            asked = time.monotonic()
            current, version = self._read()
            if time.monotonic() - asked > self.renew_s:  # the store was away, for the holder too
                deadline = time.monotonic() + self.lease_s
            if current is None or current.has_ended or (current == seen and time.monotonic() > deadline):
                try:
                    self._version = self.storage.write_if(LEASE, self._lease(), match=version)
                except Conflict:
                    continue
                self._thread.start()
                return self
            if seen is not None and current != seen:
                raise LeaseHeld(f"this run is being run by {current}")
            if current.is_on_this_host:
                raise LeaseHeld(f"this run is being run by {current}; wait for it, or stop that process")
            if seen is None:
                waiting(f"{current} held this run; waiting {self.lease_s:.0f} s to see if it lives")
            seen = current
            time.sleep(min(1.0, self.renew_s / 4))

    def release(self) -> None:
        """Give the run up. Never raises: a lease that cannot be removed ends by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self.lost is None and self._version is not None:
            with contextlib.suppress(StorageError):
                current, _ = self._read()
                if current is not None and current.token == self._token:
                    self.storage.delete(LEASE)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _read(self) -> tuple[Holder | None, Version | None]:
        try:
            data, version = self.storage.read_versioned(LEASE)
        except MissingKey:
            return None, None
        return holder_in(data), version

    def _lease(self) -> bytes:
        return this_process(self._token).model_dump_json().encode()

    def _keep(self) -> None:
        while not self._stop.wait(self.renew_s):
            try:
                self._version = self.storage.write_if(LEASE, self._lease(), match=self._version)
            except Conflict:
                if not self._still_ours():
                    return
            except StorageError:
                continue  # the store is away; whoever wants the run waits as long as the lease lasts

    def _still_ours(self) -> bool:
        """After a conflict: a renewal whose answer got lost conflicts with itself when it is sent again."""
        try:
            current, version = self._read()
        except StorageError:
            return True  # to be seen at the next renewal
        if current is not None and current.token == self._token:
            self._version = version
            return True
        self.lost = str(current or "another driver")
        return False


def this_process(token: str = "") -> Holder:
    """The holder that this process is."""
    return Holder(
        host=socket.gethostname(),
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        pids=_pid_namespace(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        token=token,
        since=time.time(),
    )


def holder_in(data: bytes) -> Holder | None:
    """The holder that a stored lease names; None if it is damaged, and so holds nobody up."""
    try:
        return Holder.parse(read_bounded_json(data), LEASE)
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

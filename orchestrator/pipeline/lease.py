"""One driver at a time owns a run: a lease in the run's storage, renewed while the driver lives.

It works on every storage that has compare-and-swap, so on S3 and across hosts. A driver that was
killed leaves its lease behind: on the same host the next one sees at once that the process is
gone; elsewhere it waits until the lease has expired.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ekd_train.persistence.bounded_json import read_bounded_json
from orchestrator.errors import EkdError
from orchestrator.storage import Conflict, MissingKey, Storage, StorageError, Version

LEASE = "owner.json"
LEASE_S = 60.0
RENEW_S = 15.0
_ENDED = ("Z", "X")
"""States of a process that has ended and that nobody has waited for: in a container perhaps for ever."""


class LeaseHeld(EkdError):
    """Another driver is running this run; the message says which."""


class Lease:
    """The lease of this process on one run. Use as a context manager."""

    def __init__(self, storage: Storage, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> None:
        self.storage, self.lease_s, self.renew_s = storage, lease_s, renew_s
        self.lost: str | None = None
        self._token = uuid.uuid4().hex
        self._version: Version | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self, waiting: Callable[[str], None] = lambda _: None) -> Lease:
        """Take the run, waiting for an expired owner's lease to end if need be.

        Raises `LeaseHeld` when the owner is alive.
        """
        seen: dict[str, Any] | None = None
        deadline = time.monotonic() + self.lease_s
        while True:
            asked = time.monotonic()
            current, version = self._read()
            if time.monotonic() - asked > self.renew_s:  # the store was away, for the owner too
                deadline = time.monotonic() + self.lease_s
            if current is None or is_gone(current) or (current == seen and time.monotonic() > deadline):
                try:
                    self._version = self.storage.write_if(LEASE, self._lease(), match=version)
                except Conflict:
                    continue
                self._thread.start()
                return self
            if seen is not None and current != seen:
                raise LeaseHeld(f"this run is being run by {_describe(current)}")
            if _is_here(current):
                raise LeaseHeld(
                    f"this run is being run by {_describe(current)}; wait for it, or stop that process"
                )
            if seen is None:
                waiting(
                    f"{_describe(current)} owned this run; waiting {self.lease_s:.0f} s to see if it lives"
                )
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
                if current is not None and current.get("token") == self._token:
                    self.storage.delete(LEASE)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _read(self) -> tuple[dict[str, Any] | None, Version | None]:
        try:
            data, version = self.storage.read_versioned(LEASE)
        except MissingKey:
            return None, None
        try:
            owner = read_bounded_json(data)
        except ValueError:
            owner = None
        return (owner if isinstance(owner, dict) else {}), version

    def _lease(self) -> bytes:
        return json.dumps(this_process() | {"token": self._token, "since": time.time()}).encode()

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
        if current is not None and current.get("token") == self._token:
            self._version = version
            return True
        self.lost = _describe(current or {})
        return False


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, also from those of other hosts and containers."""
    return {
        "host": socket.gethostname(),
        "boot": _read_text("/proc/sys/kernel/random/boot_id"),
        "pids": _pid_namespace(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
    }


def _is_here(owner: dict[str, Any]) -> bool:
    """Whether the owner's process id means something in this process: same kernel, same id space."""
    here = this_process()
    return bool(here["boot"]) and all(owner.get(key) == here[key] for key in ("host", "boot", "pids"))


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host that has ended."""
    return not owner or (_is_here(owner) and _start_of(owner["pid"]) != owner["started"])


def _describe(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"


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

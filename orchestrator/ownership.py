"""One driver at a time owns a run: a lease in the run's storage, renewed while the driver lives.

It works on every storage that has compare-and-swap, so on S3 and across hosts. A driver that was
killed leaves its lease behind: on the same host the next one sees at once that the process is
gone; elsewhere it waits until the lease has expired.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.storage import Conflict, MissingKey, Storage, StorageError, Version

LEASE = "owner.json"
LEASE_S = 60.0
RENEW_S = 15.0


class OwnedByAnother(RuntimeError):
    """Another driver is running this run; the message says which."""


class Ownership:
    """The lease of this process on one run. Use as a context manager."""

    def __init__(self, storage: Storage, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> None:
        self.storage, self.lease_s, self.renew_s = storage, lease_s, renew_s
        self.lost: str | None = None
        self._token = uuid.uuid4().hex
        self._version: Version | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="ownership", daemon=True)

    def acquire(self, waiting: Callable[[str], None] = lambda _: None) -> Ownership:
        """Take the run, waiting for an expired owner's lease to end if need be.

        Raises `OwnedByAnother` when the owner is alive.
        """
        seen: dict[str, Any] | None = None
        deadline = time.monotonic() + self.lease_s
        while True:
            current, version = self._read()
            if current is None or is_gone(current) or (current == seen and time.monotonic() > deadline):
                try:
                    self._version = self.storage.write_if(LEASE, self._lease(), match=version)
                except Conflict:
                    continue
                self._thread.start()
                return self
            if seen is not None and current != seen:
                raise OwnedByAnother(f"this run is being run by {_describe(current)}")
            if _is_here(current):
                raise OwnedByAnother(
                    f"this run is being run by {_describe(current)}; wait for it, or stop that process"
                )
            if seen is None:
                waiting(
                    f"{_describe(current)} owned this run; waiting {self.lease_s:.0f} s to see if it lives"
                )
            seen = current
            time.sleep(min(1.0, self.renew_s / 4))

    def release(self) -> None:
        """Give the run up."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self.lost is None and self._version is not None:
            self.storage.delete(LEASE)

    def __enter__(self) -> Ownership:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _read(self) -> tuple[dict[str, Any] | None, Version | None]:
        try:
            data, version = self.storage.read_versioned(LEASE)
        except MissingKey:
            return None, None
        try:
            return json.loads(data), version
        except ValueError:
            return {}, version

    def _lease(self) -> bytes:
        here = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        return json.dumps(here | {"boot": _boot_id(), "started": _start_of(os.getpid())}).encode()

    def _keep(self) -> None:
        while not self._stop.wait(self.renew_s):
            try:
                self._version = self.storage.write_if(LEASE, self._lease(), match=self._version)
            except Conflict:
                current, _ = self._read()
                self.lost = _describe(current or {})
                return
            except StorageError:
                continue  # the store is away; whoever wants the run waits as long as the lease lasts


def _is_here(owner: dict[str, Any]) -> bool:
    return owner.get("boot") == _boot_id() and owner.get("host") == socket.gethostname()


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host that has ended."""
    return not owner or (_is_here(owner) and _start_of(owner["pid"]) != owner["started"])


def _describe(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When that process began, in the kernel's ticks; None if there is none: tells reused ids apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None

"""One driver at a time runs a run: it holds a lease in the run's storage, renewed while the driver lives.

It works on every storage that has compare-and-swap, so on S3 and across hosts. A driver that was
killed leaves its lease behind: on the same host the next one sees at once that the process is
gone; elsewhere it waits until the lease has expired.

The lease has a number, its term, that grows with every owner. Drivers and workers write what is the run's
through `Lease.fenced`, which looks before each write whether the lease is still of that term: an owner that
was stopped, or cut off, until another one came writes and deletes nothing more.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from ekd_train.persistence.records import NewerRecord
from orchestrator.errors import EkdError
from orchestrator.experiment.redaction import one_line
from orchestrator.pipeline.lease_holder import LEASE, Holder, holder_in, this_process
from orchestrator.storage import Conflict, MissingKey, Storage, StorageError, TooLarge, Version
from orchestrator.storage.fenced import FencedStorage

LEASE_S = 60.0
RENEW_S = 15.0


class LeaseHeld(EkdError):
    """Another driver is running this run; the message says which."""


class TakenOver(EkdError):
    """This process, or the driver that it works for, does not own the run any more: it writes nothing."""

    continues = False


@dataclass(frozen=True)
class Fence:
    """Lets the owner of one term write; a small value that travels to workers."""

    storage: Storage
    """Of the run."""
    term: int
    token: str

    def check(self) -> None:
        """Raise `TakenOver` unless the stored lease is this one, `StorageError` if that cannot be seen."""
        try:
            current, _ = _read(self.storage)
        except NewerRecord as error:
            raise TakenOver(str(error)) from None
        if current is None or (current.term, current.token) != (self.term, self.token):
            raise TakenOver(_lost_to(current))
        if current.released:
            raise TakenOver("this run was given up by its driver")


class Lease:
    """The lease of this process on one run. Use as a context manager."""

    def __init__(self, storage: Storage, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> None:
        self.storage, self.lease_s, self.renew_s = storage, lease_s, renew_s
        self.lost: str | None = None
        """Why this process does not own the run any more; None: it does, or did when that was seen last."""
        self.term = 0
        self._token = uuid.uuid4().hex
        self._version: Version | None = None
        self._renewed = 0.0
        self._unwritten = ""  # why the last renewal failed, in brackets
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def fenced(self) -> FencedStorage:
        """The run's storage, to be written while this lease, once acquired, is the newest."""
        return FencedStorage(self.storage, self._fence)

    def acquire(self, waiting: Callable[[str], None] = lambda _: None) -> "Lease":
        """Take the lease, waiting for that of a driver that may have ended to run out if need be.

        `waiting` is called with a line if it has to wait. Raises `LeaseHeld` when the holder is alive;
        `NewerRecord` for a lease of a newer version of ekd.
        """
        seen: Holder | None = None
        deadline = time.monotonic() + self.lease_s
        while True:
            asked = time.monotonic()
            current, version = _read(self.storage)
            if time.monotonic() - asked > self.renew_s:  # the store was away, for the holder too
                deadline = time.monotonic() + self.lease_s
            if current is None or current.has_ended or (current == seen and time.monotonic() > deadline):
                self.term, began = 1 + (current.term if current is not None else 0), _now()
                try:
                    self._version = self.storage.write_if(LEASE, self._lease(), match=version)
                except Conflict:
                    continue
                self._renewed = began
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

    def check(self) -> None:
        """Raise `TakenOver` if another driver has the run, or may have it: this one could not renew in time.

        A process that was stopped for so long renews here: that it can shows that nobody came meanwhile.
        Otherwise the store is not asked.
        """
        if self.lost is None and self._expired:
            if self._renewing.acquire(timeout=self.renew_s):
                try:
                    self._renew()
                finally:
                    self._renewing.release()
            if self.lost is None and self._expired:
                self.lost = self._not_renewed()
        if self.lost is not None:
            raise TakenOver(f"{self.lost}; this driver stops")

    def confirm(self) -> None:
        """As `check`, and looks at the stored lease: before a write to another place than `fenced`."""
        self.check()
        try:
            self._fence.check()
        except TakenOver as error:
            self.lost = self.lost or str(error)
            raise

    def release(self) -> None:
        """Give the run up. Never raises: a lease that cannot be given up ends by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self.lost is None and self._version is not None:
            with contextlib.suppress(StorageError, NewerRecord):
                current, version = _read(self.storage)
                if current is not None and current.token == self._token:
                    # Its process ended long ago, for versions of ekd that do not know what is given up.
                    given_up = current.model_copy(update={"released": True, "started": "released"})
                    self.storage.write_if(LEASE, given_up.model_dump_json().encode(), match=version)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def _fence(self) -> Fence:
        return Fence(self.storage, self.term, self._token)

    @property
    def _expired(self) -> bool:
        return _now() - self._renewed > self.lease_s

    def _not_renewed(self) -> str:
        unrenewed = f"the lease of this run could not be renewed for {self.lease_s:.0f} s"
        return f"{unrenewed}{self._unwritten}: another driver may have it by now"

    def _lease(self) -> bytes:
        return this_process(self._token, self.term).model_dump_json().encode()

    def _keep(self) -> None:
        while self.lost is None and not self._stop.wait(self.renew_s):
            with self._renewing:
                self._renew()

    def _renew(self) -> None:
        """Say in the stored lease that this process lives; note what is found if it is another's."""
        began = _now()
        try:
            self._version = self.storage.write_if(LEASE, self._lease(), match=self._version)
            self._renewed = began
        except Conflict:
            self._look(began)
        except StorageError as error:
            self._unwritten = f" ({one_line(error, 200)})"
            if self._expired:
                self.lost = self._not_renewed()

    def _look(self, began: float) -> None:
        """After a conflict: a renewal whose answer got lost conflicts with itself when it is sent again."""
        with contextlib.suppress(StorageError):  # to be seen at the next renewal
            try:
                current, version = _read(self.storage)
            except NewerRecord as error:
                self.lost = str(error)
                return
            if current is None or current.token != self._token:
                self.lost = _lost_to(current)
            else:
                self._version, self._renewed = version, began


def _read(storage: Storage) -> tuple[Holder | None, Version | None]:
    """Who holds the run in `storage`, and the version of the lease; None: nobody, and of none."""
    try:
        data, version = storage.read_versioned(LEASE)
    except MissingKey:
        return None, None
    except TooLarge:  # no driver wrote that; it cannot be replaced without reading it
        storage.delete(LEASE)
        return None, None
    return holder_in(data), version


def _lost_to(holder: Holder | None) -> str:
    if holder is None:
        return f"this run's lease, {LEASE}, was deleted or damaged, perhaps with all of the run's folder"
    return f"{holder} has taken this run over"


def _now() -> float:
    """Seconds, of a clock that goes on while this machine sleeps, if there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

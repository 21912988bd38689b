"""Clients of MLflow that wait in the right way: with a voice, within limits, and only while it may be."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ekd_train.waiting import UNKNOWN, lock_holder, waiting_for
from orchestrator.runtime.environment import in_the_environment
from orchestrator.tracking.address import redacted, sqlite_file

UPLOAD_TIMEOUT_S = 300
TRANSFERS = ("log_artifact", "log_model_artifacts", "download_artifacts")
"""What the names of the client's methods that carry files begin with: these alone may take minutes."""
READING = ("get_", "search_", "download_", "list_")
"""What the names of the client's methods that write nothing begin with."""


def for_files() -> dict[str, str]:
    """What a request may take that carries one, or longer where the user says so."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    said = os.environ.get(name, "")
    return {name: str(max(UPLOAD_TIMEOUT_S, int(said) if said.isdecimal() else 0))}


def server_in_words(uri: str, *, files: bool = False) -> str:
    """What is waited for, of a store that is asked something, or that carries a file."""
    doing = "to take or give a file" if files else "which does not answer"
    return f"the tracking store {redacted(uri)}{' ' if files else ', '}{doing}"


def database_in_words(uri: str) -> str:
    """The database at `uri`; of a file, who holds it."""
    file = sqlite_file(uri)
    if file is None:
        return server_in_words(uri)
    holder = UNKNOWN
    with suppress(OSError):
        holder = lock_holder(file.stat().st_ino, "POSIX")
    others = holder != UNKNOWN and not holder.startswith(f"process {os.getpid()} ")
    return f"MLflow's file {file}" + (f", which is locked by {holder}" if others else "")


class _Through:
    """Whose methods are those of `target`, each called by `_call`."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, functools.partial(found, *args, **kwargs))

        return call

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        raise NotImplementedError


class Uninterrupted(_Through):
    """Whose methods are those of `target`, called one at a time on a thread of their own.

    Python raises a signal's exception in the main thread, between any two instructions: SQLAlchemy so
    interrupted can leave its transaction open, and SQLite's file locked for as long as the process lives.
    Here it interrupts the waiting; the call ends, and the next one waits for it.

    >>> Uninterrupted("one two").split()
    ['one', 'two']
    """

    def __init__(self, target: object, what: Callable[[], str] = lambda: "MLflow") -> None:
        """`what` is waited for, in words."""
        super().__init__(target)
        self._what = what
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        with waiting_for(self._what):
            return self._thread.submit(call).result()


class Audible(_Through):
    """Whose methods are those of `target`, a client of the server at `uri`: who waits for one says so.

    >>> Audible("one two", "http://127.0.0.1:5000").split()
    ['one', 'two']
    """

    def __init__(self, target: object, uri: str) -> None:
        super().__init__(target)
        self._uri = uri

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        files = name.startswith(TRANSFERS)
        limits = for_files() if files else {}
        with waiting_for(lambda: server_in_words(self._uri, files=files)), in_the_environment(limits):
            return call()


class Confirmed(_Through):
    """Whose methods are those of the client `target`; before each that may write, `confirm` is called.

    >>> Confirmed("one two", lambda: print("may I?")).split()
    may I?
    ['one', 'two']
    """

    def __init__(self, target: object, confirm: Callable[[], None]) -> None:
        super().__init__(target)
        self._confirm = confirm

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        if not name.startswith(READING):
            self._confirm()
        return call()

"""Calls to a database that no signal cuts in the middle."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Uninterrupted:
    """Whose methods are those of `target`, called one at a time on a thread of their own.

    Python raises a signal's exception in the main thread, between any two instructions: SQLAlchemy so
    interrupted can leave its transaction open, and SQLite's file locked for as long as the process lives.
    Here it interrupts the waiting; the call ends, and the next one waits for it.

    >>> Uninterrupted("one two").split()
    ['one', 'two']
    """

    def __init__(self, target: object) -> None:
        self._target = target
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._thread.submit(found, *args, **kwargs).result()

        return call

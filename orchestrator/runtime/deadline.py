"""A time limit for calls that have none of their own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """The result of `call()`; raises `ConnectionError` if it takes longer, else what it raises.

    Ray's job client waits for ever for a head that lost power in mid-answer. The thread that waits is left
    behind then, and does not keep the process from ending.
    """
    done = Future[T]()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="call with a time limit", daemon=True).start()
    try:
        return done.result(timeout_s)
    except TimeoutError as error:
        if done.done():  # the call's own
            raise
        raise ConnectionError(f"no answer within {timeout_s:g} s") from error

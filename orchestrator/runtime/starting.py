"""The call that starts Ray or reaches it: with a voice, a bound, and a name on the folder that it makes."""

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from ekd_train.waiting import Wait
from orchestrator.errors import EkdError
from orchestrator.runtime.leftovers import end_processes_of, sessions_of_this_process, sign

CONNECT_S = 60.0
"""How long a cluster may take to answer; one that answers takes a few seconds, on a busy machine ten."""

START_S = 150.0
"""How long Ray may take to start here: it gives its server 30 s, its client 20 to 50 and its raylet 30."""

ROOM = 100 * 10**6
"""Bytes that have to be free where Ray keeps its session: its logs, sockets and port files."""

_LOOK_S = 0.1


class TooSlow(EkdError, ConnectionError):
    """Ray neither started nor answered in time; the thread that waits for it goes on waiting."""


def started(call: Callable[[], Any], folder: Path) -> Any:
    """What `call` returns, which starts a Ray that keeps its session in `folder`; raises what it raises.

    The session is signed as soon as it is there, so that the next one can remove it whatever ends this
    process. `TooSlow` ends the session's processes.
    """
    before = sessions_of_this_process(folder)
    ours: set[Path] = set()

    def look() -> None:
        for session in sessions_of_this_process(folder) - before - ours:
            with suppress(OSError):  # at the next look, perhaps
                sign(session)
                ours.add(session)

    try:
        return _answer(call, lambda: f"Ray to start on this machine, in {folder}", START_S, look, stays=True)
    except (TooSlow, KeyboardInterrupt, SystemExit):  # Ray would go on to start, and nobody would know
        for session in sessions_of_this_process(folder) - before:
            end_processes_of(session)
        raise


def connected(call: Callable[[], Any], address: str) -> Any:
    """What `call` returns, which connects to the Ray at `address`; raises what it raises, or `TooSlow`."""
    return _answer(call, lambda: f"Ray at {address} to answer", CONNECT_S, lambda: None, stays=False)


def why_no_room(folder: Path) -> str | None:
    """Why Ray cannot keep a session in `folder`, there yet or not, and what to do; None if it can."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    free = shutil.disk_usage(there).free
    if free >= ROOM:
        return None
    return (
        f"the file system of {there}, where Ray keeps its session, is full: {free / 1e6:.1f} MB are free, "
        f"and Ray needs {ROOM / 1e6:.0f}; free some space, or set RAY_TMPDIR to a folder on a larger disk"
    )


def _answer(
    call: Callable[[], Any], what: Callable[[], str], limit_s: float, look: Callable[[], None], *, stays: bool
) -> Any:
    """`stays`: the thread that calls is there until this process ends, if it could begin something.

    The kernel ends Ray's daemons together with the thread that began them, not only with its process.
    """
    done = Future[Any]()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)
        else:
            if stays:
                threading.Event().wait()

    threading.Thread(target=run, name="the way to Ray", daemon=True).start()
    waiting = Wait(what)
    while not done.done():
        if waiting.look() > limit_s:
            raise TooSlow(f"no answer within {limit_s:g} s")
        look()
        wait([done], timeout=_LOOK_S)
    look()
    return done.result()

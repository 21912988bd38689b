"""Asking the Hugging Face hub: its cache alone, or the network, without its library's retries and noise."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from ekd_train.reachable import why_away
from ekd_train.waiting import waiting_for


def why_hub_is_away() -> str | None:
    """Why the hub does not answer, in words; None: it does, or HF_HUB_OFFLINE says not to ask it."""
    if constants.HF_HUB_OFFLINE:
        return None
    return why_away(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")


@contextmanager
def cache_alone() -> Iterator[None]:
    """Within it the library takes what it wants of the hub from its cache, as it does with HF_HUB_OFFLINE.

    That variable is read as the library is imported, which may be long past.
    """
    session: Any = huggingface_hub.get_session()
    before = session.event_hooks
    session.event_hooks = {**before, "request": [_refuse, *before.get("request", ())]}
    try:
        yield
    finally:
        session.event_hooks = before


def _refuse(_: object) -> None:
    raise OfflineModeIsEnabled("the hub is not asked")


@contextmanager
def audible(what: str) -> Iterator[None]:
    """While `what` is fetched: its library's retries are not printed; what is waited for is, after 10 s."""
    library = logging.getLogger("huggingface_hub")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        with waiting_for(lambda: f"{what} from the Hugging Face hub"):
            yield
    finally:
        library.setLevel(level)

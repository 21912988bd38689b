"""Whether a server of files answers at all: asked once, before a library would try again and again."""

import os
import ssl
import threading
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

PROBE_S = 5.0
"""Whoever answers does so in less, the look-up of the name included."""


def why_away(url: str, timeout_s: float = PROBE_S) -> str | None:
    """Why nothing answers at the host of `url`, in words; None: something does, through a proxy or not."""
    found = [f"{urlsplit(url).hostname} does not answer within {timeout_s:g} s"]

    def ask() -> None:
        found[0] = _refusal(url, timeout_s) or ""

    # Of a look-up that gets no answer the resolver's own bound is half a minute.
    asking = threading.Thread(target=ask, name="reachable", daemon=True)
    asking.start()
    asking.join(timeout_s)
    return found[0] or None


def _refusal(url: str, timeout_s: float) -> str | None:
    host = urlsplit(url).hostname
    try:
        # Not `urlopen`, which keeps the proxies of its first call.
        with build_opener().open(Request(url, method="HEAD"), timeout=timeout_s):
            return None
    except (HTTPError, HTTPException):  # whatever it says, it answers
        return None
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLError):  # it answers; whom to trust the library decides
            return None
        said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        proxy = (
            " or its proxy" if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY")) else ""
        )
        return f"{host}{proxy} does not answer: {said}"

"""The hosts that addresses name, and whether a credential may go there unencrypted."""

import os
import re
import socket
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from orchestrator.experiment.redaction import redacted

ALLOWED = "EKD_ALLOW_INSECURE"
"""The variable that names hosts, with commas between them, to which credentials may go unencrypted. It is in
the environment because they are: an experiment could allow itself anything."""

_PLACE = re.compile(r"(?:[^\\]*@)?(?:\[([0-9a-fA-F:.]+)\]|([^\\\[\]:@\s]+))(?::\d*)?")


def host_of(address: str) -> str:
    r"""The host in a URI or in HOST:PORT; empty if there is none, or if two readers might see two.

    >>> host_of("http://mlflow.lan:5000/x"), host_of("10.0.0.1:6379"), host_of(r"http://evil\@127.0.0.1")
    ('mlflow.lan', '10.0.0.1', '')
    """
    with suppress(ValueError):
        place = urlsplit(address if "://" in address else f"//{address}").netloc
        if found := _PLACE.fullmatch(place):
            return (found[1] or found[2]).lower()
    return ""


def is_malformed(address: str) -> bool:
    """Whether what a URI or HOST:PORT has in the place of host and port cannot be these.

    >>> is_malformed("head:6379"), is_malformed("h]:1"), is_malformed("http://h:port")
    (False, True, True)
    """
    try:
        return urlsplit(address if "://" in address else f"//{address}").port == 0
    except ValueError:
        return True


ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""The SDK's own variables; the first counts."""


def endpoint_of(endpoint_url: str | None) -> str | None:
    """The address of the S3 store: the setting, else the SDK's own variables; None: AWS."""
    return endpoint_url or next(filter(None, map(os.environ.get, ENDPOINTS)), None)


def endpoint_setting(endpoint_url: str | None) -> str:
    """Where the address of the S3 store comes from, by name."""
    return next((n for n in ENDPOINTS if os.environ.get(n) and not endpoint_url), "storage.endpoint_url")


def proxy_of(address: str) -> str | None:
    """The proxy, without credentials, that requests to `address` go through as the environment says, and the
    variables that say so; None: they go there themselves."""
    scheme = address.partition("://")[0].lower()
    proxy, host = getproxies().get(scheme), host_of(address)
    if not proxy or not host or proxy_bypass(host):
        return None
    return f"the proxy {redacted(proxy)} ({scheme.upper()}_PROXY, NO_PROXY)"


def is_this_machine(host: str) -> bool:
    """Whether what goes to `host` stays here: the loopback's name or number, or a number of this machine's.

    A name is asked of nobody: whoever answers could answer otherwise the next time.
    """
    try:
        number = ip_address(host)
        if number.is_loopback:
            return True
        family = socket.AF_INET if number.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as here:
            here.bind((host, 0))
    except (ValueError, OSError):
        return host == "localhost"
    return True


def why_exposed(address: str, secret: str) -> str | None:
    """Why `secret` must not go to `address`, whose protocol encrypts nothing; None if it may."""
    host = host_of(address)
    allowed = os.environ.get(ALLOWED, "").replace(" ", "").split(",")
    if host and (is_this_machine(host) or host in allowed):
        return None
    return (
        f"{secret} would cross the network unencrypted, for anybody on the way to read; use https, or a "
        f"tunnel to 127.0.0.1, or allow it: export {ALLOWED}={host}"
    )

"""Requests to S3: boto3 clients (one per process and endpoint, never part of a pickle) and patience."""

import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from ekd_train.waiting import waiting_for
from orchestrator.storage import s3_errors

Result = TypeVar("Result")

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
"""Longest silence of a store that is connected."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0

logger = logging.getLogger(__name__)

_Place = tuple[int, str | None, float]
_clients: dict[_Place, tuple[Any, Any]] = {}
"""The client and the credentials that it signs with; by process id as well: a forked process must not share
its parent's connections. And by the longest silence, in seconds, that it bears."""


def call(operation: Callable[[Any], Result], uri: str, endpoint_url: str | None, patience_s: float) -> Result:
    """The result of `operation(client)`, tried again while the store is away.

    Pauses grow from half a second to ten. `patience_s` seconds after the call no new attempt
    begins, and `StorageError` is raised; what cannot pass by itself is raised at once.
    `operation` must be repeatable; `uri` is for the messages.
    """
    deadline = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    renewed = False
    while True:
        try:
            with waiting_for(lambda: f"{uri}, whose store does not answer"):
                return operation(client(endpoint_url, patience_s))
        except s3_errors.S3_ERRORS as error:
            # Once a call: a role's credentials are new ones whenever they are asked for.
            if s3_errors.refused_credentials(error) and not renewed:
                renewed = _renew(endpoint_url, patience_s)
                if renewed:
                    continue
            remaining_s = deadline - time.monotonic()
            explained = s3_errors.explain(error, uri, endpoint_url)
            if remaining_s <= 0 or not s3_errors.transient(error):
                raise explained from error
            logger.warning("%s (trying again for %.0f s)", explained, remaining_s)
        time.sleep(min(pause_s * random.uniform(0.5, 1), remaining_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def client(endpoint_url: str | None, patience_s: float = READ_TIMEOUT_S) -> Any:
    """This process's client for `endpoint_url` (None: AWS, or what AWS_ENDPOINT_URL_S3 says).

    Of a store that accepts a connection and says nothing it bears no more than `patience_s`.
    Credentials and region come from boto3's own chain: environment, shared files, instance role.
    """
    place = _place(endpoint_url, patience_s)
    if place not in _clients:
        _clients[place] = _new_client(place)
    return _clients[place][0]


def _place(endpoint_url: str | None, patience_s: float) -> _Place:
    return os.getpid(), endpoint_url, max(CONNECT_TIMEOUT_S, min(READ_TIMEOUT_S, patience_s))


def _renew(endpoint_url: str | None, patience_s: float) -> bool:
    """Ask the chain for credentials again; True if there are others than this process used so far.

    boto3 renews a role's credentials by itself, but reads a shared file only once, so that keys
    which were rotated there in mid-run would stay unseen.
    """
    place = _place(endpoint_url, patience_s)
    try:
        fresh = _new_client(place)
        if place in _clients and _keys(fresh[1]) == _keys(_clients[place][1]):
            return False
    except s3_errors.S3_ERRORS:  # the source is being rewritten, is away, or refuses a role
        return False
    _clients[place] = fresh
    return True


def present_credentials() -> tuple[str | None, str | None, str | None]:
    """Key id, secret and token as boto3's chain has them now (shared files read anew); None: without any."""
    return _keys(boto3.session.Session().get_credentials()) or (None, None, None)


def _new_client(place: _Place) -> tuple[Any, Any]:
    _, endpoint_url, silence_s = place
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=silence_s,
        tcp_keepalive=True,
        # For a lost packet or a throttled part; a store that is away is for `call`.
        retries={"mode": "standard", "total_max_attempts": 3 if silence_s == READ_TIMEOUT_S else 1},
    )
    if endpoint_url is not None:
        compatible = Config(
            s3={"addressing_style": "path"},  # bucket.host needs a wildcard in the DNS
            # The checksums that the SDK adds by default are refused by some compatible stores.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        config = config.merge(compatible)
    # A session of our own: the default one is shared, and creating clients from it is not thread-safe.
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=endpoint_url, config=config), session.get_credentials()


def _keys(credentials: Any) -> tuple[str, str, str | None] | None:
    if credentials is None:
        return None
    frozen = credentials.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token

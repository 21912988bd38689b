"""Opening MLflow's client: bounded waits, a quiet log, and the SQLite file migrated once."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from orchestrator.errors import EkdError
from orchestrator.runtime.environment import in_the_environment
from orchestrator.tracking.address import redacted, sqlite_file
from orchestrator.tracking.preflight import TrackingError
from orchestrator.tracking.uninterrupted import Uninterrupted

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    # MLflow waits 120 s and tries 8 times: minutes for each call to a dead server. What could
    # not be written is kept and retried later (outbox.py), so one quick retry is enough here.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # stderr is for what is wrong
}
UPLOAD_TIMEOUT_S = 300


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, which exists and answers when this returns.

    The user's own MLFLOW_* variables win over ours. A SQLite file is created and migrated
    under a file lock, because two processes that migrate it at once break it (mlflow#6490).

    Raises:
        TrackingError: the store cannot be opened.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # 1-2 s, and it reads the variables above

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It logs a traceback for each database error, which we report in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with explained(uri, "open"), _first_use(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if not uri.startswith(("http:", "https:")):  # the database is written by this process
            client = cast("MlflowClient", Uninterrupted(client))
        client.search_experiments(max_results=1)
    return client


@contextmanager
def explained(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow raises inside into a one-line `TrackingError` without credentials."""
    try:
        yield
    except EkdError:
        raise
    except Exception as error:
        reason = redacted(str(error)).splitlines() or [type(error).__name__]
        renew_artifact_credentials()
        raise TrackingError(f"cannot {doing} the tracking store {redacted(uri)}: {reason[0]}") from error


def renew_artifact_credentials() -> None:
    """Let MLflow's next upload to S3 read the credentials anew: it would use those of its first for ever.

    MLflow keeps its clients for five minutes, and makes them of boto3's default session, which reads
    a shared file once. There is no public way; without this one keys renewed in mid-run stay unseen.
    """
    if (module := sys.modules.get("mlflow.store.artifact.s3_artifact_repo")) is None:
        return
    from orchestrator.storage.s3_client import forget_default_session

    forget_default_session()
    if (cached := getattr(module, "_cached_get_s3_client", None)) is not None:
        cached.cache_clear()


@contextmanager
def patient(uri: str) -> Iterator[None]:
    """For uploads: time enough for a large file, and `uri` as MLflow's global store.

    Its model registry asks the *global* client for a logged model, whatever client called it.
    """
    wanted = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(UPLOAD_TIMEOUT_S)}
    with in_the_environment(wanted):
        yield


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

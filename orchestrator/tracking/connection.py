"""Opening MLflow's client: bounded waits, a quiet log, and the SQLite file migrated once."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from ekd_train.data.user_cache import locked
from ekd_train.waiting import waiting_for
from orchestrator.errors import EkdError
from orchestrator.runtime.environment import in_the_environment
from orchestrator.storage.atomic_files import replacing
from orchestrator.tracking.address import local_folder, redacted, sqlite_file
from orchestrator.tracking.clients import (
    Audible,
    Uninterrupted,
    database_in_words,
    for_files,
    server_in_words,
)
from orchestrator.tracking.errors import remedy_of
from orchestrator.tracking.preflight import TrackingError, check_sqlite_place, has_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    # MLflow waits 120 s and tries 8 times: minutes for each call to a dead server. What could
    # not be written is written later (tracker.py), so one quick retry is enough here.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # stderr is for what is wrong
}
MIGRATION_S = 300
"""How long another process may take to create or migrate a SQLite file."""


def connect(uri: str) -> "MlflowClient":
    """A client of the store at `uri`, which exists and answers when this returns.

    The user's own MLFLOW_* variables win over ours. A SQLite file is created and migrated
    under a file lock, because two processes that migrate it at once break it (mlflow#6490).

    Raises `TrackingError`: the store cannot be opened.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # 1-2 s, and it reads the variables above

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It logs a traceback for each database error, which we report in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with explained(uri, "open"), _first_use(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith(("http:", "https:")):
            client = cast("MlflowClient", Audible(client, uri))
        else:  # the database is written by this process
            client = cast("MlflowClient", Uninterrupted(client, lambda: database_in_words(uri)))
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
        remedy = f"; {remedy}" if (remedy := remedy_of(error)) else ""
        problem = f"cannot {doing} the tracking store {redacted(uri)}: {reason[0]}{remedy}"
        raise TrackingError(problem) from error


def check_location(uri: str, location: str) -> None:
    """Whether MLflow may be asked to read or write artifacts at `location`, as the store at `uri` says.

    MLflow sends its credentials to any server that stands there. A server has them already; whoever may write
    a database, which may lie in a shared storage, could name one: Azure's client, whose token MLflow finds
    by itself, goes to any host. Raises `TrackingError`.
    """
    place = urlsplit(location)
    is_azure, is_server = place.scheme in ("wasbs", "abfss"), uri.startswith(("http:", "https:"))
    if is_azure and not is_server and not (place.hostname or "").endswith(AZURE_HOSTS):
        raise TrackingError(
            f"{redacted(uri)} says that artifacts are at {redacted(location)}, which is none of Azure's hosts"
        )
    trusted = place.scheme in ("", "file", "s3", "gs", "wasbs", "abfss")  # others may lead on
    if not trusted and not uri.startswith(("http:", "https:")) and has_credentials(location):
        raise TrackingError(
            f"{redacted(uri)} says that artifacts are at {redacted(location)}, which would be sent MLflow's "
            "credentials; unset MLFLOW_TRACKING_TOKEN and its like for this command, or name that server"
        )


def check_own_model(uri: str, location: str) -> None:
    """Whether a model may be fetched from `location`, as the store at `uri` says: all of a folder is copied.

    Whoever may write a SQLite file could name any folder of this user's. Raises `TrackingError` for one that
    neither is below the file's nor holds a model, and as `check_location`.
    """
    check_location(uri, location)
    file, place = sqlite_file(uri), local_folder(location)
    if file is None or place is None:
        return
    if not place.resolve().is_relative_to(file.parent.resolve()) and not (place / "MLmodel").is_file():
        raise TrackingError(
            f"{redacted(uri)} says that the model is at {redacted(location)}, "
            f"which is not below {file.parent} and holds no model"
        )


def own_folder(uri: str, location: str, storage_uri: str) -> tuple[Path, Path] | None:
    """The folder `location`, where the SQLite file at `uri` says that artifacts are, and the file's folder.

    None: it is below the bucket `storage_uri`, or `uri` is no file but a server, which a user has named.
    Whoever may write the file could name any place that this user may write to, so others are a
    `TrackingError`.
    """
    file = sqlite_file(uri)
    if file is None or (
        location.startswith(f"{storage_uri.rstrip('/')}/") and storage_uri.startswith("s3://")
    ):
        return None
    root, place = file.parent.resolve(), local_folder(location)
    if place is None or not place.resolve().is_relative_to(root):
        raise TrackingError(
            f"{redacted(uri)} says that artifacts are at {redacted(location)}, which is not below "
            f"{file.parent}; give the experiment another name, or set tracking.uri"
        )
    return place.resolve(), root


def upload(
    uri: str, location: str, folder: str, through_mlflow: Callable[[str], None], storage_uri: str
) -> None:
    """Upload the files below `folder` to the artifact location of a run or a logged model of the store `uri`.

    Raises `TrackingError` as `check_location` and `own_folder`, and what MLflow raises.

    MLflow's client makes its S3 client of the credentials that it finds first, and keeps it for five
    minutes; so for S3 the present credentials are handed to MLflow's repository each time. To a folder it
    writes through links, which somebody else may have put there; here none is followed.
    """
    check_location(uri, location)
    with in_the_environment(for_files()), waiting_for(lambda: server_in_words(location, files=True)):
        _upload(uri, location, folder, through_mlflow, storage_uri)


def _upload(
    uri: str, location: str, folder: str, through_mlflow: Callable[[str], None], storage_uri: str
) -> None:
    if (own := own_folder(uri, location, storage_uri)) is not None:
        place, root = own
        for file in (file for file in Path(folder).rglob("*") if file.is_file()):
            with (
                open(file, "rb") as source,
                replacing(place / file.relative_to(folder), below=root) as target,
            ):
                shutil.copyfileobj(source, target)
        return
    if not location.startswith("s3://"):
        through_mlflow(folder)
        return
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository  # only after `connect`

    from orchestrator.storage.s3_client import present_credentials  # boto3

    S3ArtifactRepository(location, *present_credentials()).log_artifacts(folder)


@contextmanager
def patient(uri: str) -> Iterator[None]:
    """For files that MLflow's own functions fetch: time enough, and a voice; `uri` as its global store."""
    with (
        global_store(uri),
        in_the_environment(for_files()),
        waiting_for(lambda: server_in_words(uri, files=True)),
    ):
        yield


@contextmanager
def global_store(uri: str) -> Iterator[None]:
    """`uri` as MLflow's global store, which its registry asks for a logged model, whoever called it."""
    with in_the_environment({"MLFLOW_TRACKING_URI": uri}):
        yield


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    check_sqlite_place(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f"{file.name}.lock"), MIGRATION_S):
        yield


AZURE_HOSTS = (".core.windows.net", ".core.usgovcloudapi.net", ".core.chinacloudapi.cn")
"""How the names of its storage's hosts end."""

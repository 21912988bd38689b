"""Where runs are tracked: which MLflow store, where its artifacts lie, how to look at it.

Pure functions on addresses; nothing here imports mlflow or opens a connection.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from orchestrator.experiment.redaction import redacted

__all__ = ["artifact_location", "redacted", "resolve_tracking_uri", "runs_page", "sqlite_file", "ui_command"]

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of the databases that MLflow knows, which may go on with `+DRIVER`."""


def resolve_tracking_uri(setting: str | None, storage_uri: str) -> str:
    """The MLflow tracking URI of a run.

    The experiment's `tracking.uri` wins, then MLFLOW_TRACKING_URI, then a SQLite file in the
    storage folder, or in `./ekd-runs` where the storage is not a local folder.

    >>> resolve_tracking_uri("http://mlflow:5000", "/data/runs")
    'http://mlflow:5000'
    """
    uri = setting or os.environ.get(VARIABLE)
    if not uri:
        folder = local_folder(storage_uri) or Path.cwd() / "ekd-runs"
        uri = f"sqlite:///{folder}/mlflow.db"
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}{''.join(uri.partition('?')[1:])}"


def setting_of(uri: str) -> str:
    """Where the tracking URI `uri` came from, by name: the variable, if it says the same, or the key."""
    named = os.environ.get(VARIABLE)
    return VARIABLE if named and resolve_tracking_uri(named, "") == uri else "tracking.uri"


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of the file behind a SQLite URI; None for every other store.

    >>> sqlite_file("sqlite:////data/mlflow.db").as_posix()
    '/data/mlflow.db'
    >>> sqlite_file("http://mlflow:5000") is None
    True
    """
    # As SQLAlchemy has it, which opens the file: what follows a question mark is no part of its name.
    scheme, separator, path = uri.partition("?")[0].partition(":///")
    if not separator or scheme.split("+")[0] != "sqlite" or path in ("", ":memory:"):
        return None
    return Path(os.path.expanduser(path)).absolute()  # unlike pathlib's, no error where there is no home


def is_database(uri: str) -> bool:
    """Whether MLflow writes to the store at `uri` itself, by way of no server.

    >>> is_database("postgresql+psycopg2://host/mlflow"), is_database("http://mlflow:5000")
    (True, False)
    """
    return urlsplit(uri).scheme.split("+")[0] in DATABASES


def artifact_location(uri: str, experiment: str, storage_uri: str = "") -> str | None:
    """Where the artifacts of `experiment` go; None: the tracking server decides.

    In S3 storage this is `mlartifacts/` there, which clients write to directly: large files time
    out on their way through a server (mlflow#8539). Beside a SQLite file it is `mlartifacts/` too, and of
    another database in the storage's folder; MLflow's own default would be the current directory, and so
    a different place for each directory that `ekd run` was called from.

    >>> artifact_location("http://mlflow:5000", "digits", "s3://bucket/ekd/")
    's3://bucket/ekd/mlartifacts/digits'
    """
    if storage_uri.startswith("s3://"):
        return f"{storage_uri.rstrip('/')}/mlartifacts/{quote(experiment, safe='')}"
    file = sqlite_file(uri)
    folder = file.parent if file else None
    if folder is None and storage_uri and is_database(uri):
        folder = local_folder(storage_uri)
    if folder is None:
        return None
    return (folder / "mlartifacts").as_uri() + "/" + quote(experiment, safe="")


def ui_command(uri: str) -> str | None:
    """The one shell line that serves the MLflow UI of `uri`; it works in an environment not activated too.

    A secret is read from the variable that `uri` came from; one from elsewhere is left to be filled in.
    None where a server does already.
    """
    if uri.startswith(("http://", "https://")):
        return None
    mlflow = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
    store, note = shlex.quote(redacted(uri)), ""
    if redacted(uri) != uri:
        if setting_of(uri) == VARIABLE:
            store = f'"${VARIABLE}"'
        else:
            note = "  # with what *** stands for"
    # One worker is enough for one person, and there in a quarter of the time.
    return f"{mlflow} ui --workers 1 --backend-store-uri {store}{note}"


def runs_page(uri: str, experiment_id: str) -> str:
    """The page of an MLflow experiment's runs: on the server `uri`, or the one that `ui_command` starts.

    >>> runs_page("http://mlflow:5000/", "7")
    'http://mlflow:5000/#/experiments/7?workflowType=machine_learning'
    """
    server = redacted(uri).rstrip("/") if ui_command(uri) is None else "http://127.0.0.1:5000"
    # Without its last part MLflow shows a page about language models.
    return f"{server}/#/experiments/{experiment_id}?workflowType=machine_learning"


def local_folder(storage_uri: str) -> Path | None:
    """The folder of a storage that is one; None of a bucket."""
    if "://" not in storage_uri:
        return Path(os.path.abspath(os.path.expanduser(storage_uri)))  # as `open_storage` has it
    parts = urlsplit(storage_uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None

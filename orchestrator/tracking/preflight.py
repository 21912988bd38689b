"""Whether a tracking store can be used, asked before anything is started."""

import base64
import contextlib
import json
import os
import socket
import sqlite3
import ssl
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import entry_points
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import EkdError
from orchestrator.experiment.hosts import is_malformed, proxy_of, why_exposed
from orchestrator.tracking.address import redacted, setting_of, sqlite_file

TIMEOUT_S = 5.0

_DATABASES = {"postgresql": ("psycopg2", 5432), "mysql": ("MySQLdb", 3306), "mssql": ("pyodbc", 1433)}
"""Scheme -> default driver module of SQLAlchemy, default port."""

_JOURNAL_OF_SEVERAL = bytes.fromhex("d9d505f920a163d7")
"""Ends a rollback journal of SQLite that names a super-journal, and begins every one."""


class TrackingError(EkdError):
    """The tracking store cannot be used; the message is one line: what is wrong, and the remedy."""


def check_tracking(uri: str) -> None:
    """Check in at most a few seconds, without importing mlflow, that runs can be tracked at `uri`.

    Raises `TrackingError`: the store cannot be reached, refuses us, is not writable or is corrupt.
    """
    setting = setting_of(uri)
    if "://" in uri and is_malformed(uri):
        raise TrackingError(  # what the parser says quotes a password that holds a slash
            f"{setting} {redacted(uri)} is not a URI: its host or its port cannot be one; write %2F for a "
            "slash in a password"
        )
    scheme = uri.partition(":")[0].split("+")[0]
    if (file := sqlite_file(uri)) is not None:
        _check_sqlite(file)
    elif scheme in ("http", "https"):
        _check_server(uri)
    elif scheme in _DATABASES:
        _check_database(uri, scheme)
    elif scheme == "databricks":
        return  # its own client resolves profiles; `Tracker.open` reports what it finds
    elif scheme == "sqlite":
        raise TrackingError(f"{setting} {uri} keeps nothing; name a file: sqlite:////path/mlflow.db")
    elif scheme == "file" or "://" not in uri:
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise TrackingError(
                f"{setting} {redacted(uri)} is a folder, where MLflow no longer keeps runs; "
                "use sqlite:////path/mlflow.db"
            )
    else:
        raise TrackingError(
            f"{setting} {redacted(uri)}: MLflow knows http, https, sqlite, postgresql, mysql, mssql"
            " and databricks"
        )


def check_sqlite_place(file: Path) -> None:
    """Raise `TrackingError` if to open MLflow's SQLite file would lead to another file of this user's.

    In a storage, whoever may write there could put a link in its place; or beside it the journal of a change
    to several files, of which SQLite deletes the one that its end names. MLflow changes one file alone.
    """
    if file.is_symlink():
        raise TrackingError(f"MLflow's SQLite file {file} is a link; set tracking.uri to what it names")
    journal = file.with_name(f"{file.name}-journal")
    with contextlib.suppress(OSError):  # there is none, or SQLite will say more; a link it opens neither
        opened = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(opened, "rb") as content:
            content.seek(max(0, content.seek(0, os.SEEK_END) - len(_JOURNAL_OF_SEVERAL)))
            of_several = content.read() == _JOURNAL_OF_SEVERAL
        if of_several:
            raise TrackingError(f"{journal} names another file, which SQLite would delete; remove it")


def _check_sqlite(file: Path) -> None:
    check_sqlite_place(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(
            f"cannot create {file.parent} for MLflow's SQLite file: {error.strerror}; set tracking.uri"
        ) from error
    if not os.access(file.parent, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise TrackingError(f"cannot write MLflow's SQLite file {file}; set tracking.uri or its permissions")
    if file.is_dir():
        raise TrackingError(f"{file} is a folder; name a file in it: sqlite:///{file}/mlflow.db")
    if not file.exists():
        try:
            tempfile.TemporaryFile(dir=file.parent).close()  # a file system may refuse root too
        except OSError as error:
            raise TrackingError(
                f"cannot create MLflow's SQLite file {file}: {error.strerror}; set tracking.uri"
            ) from error
        return
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute(
                "BEGIN IMMEDIATE"
            )  # takes the write lock: reads the header, proves writability
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        remedy = "end the process that holds it" if locked else "move it away to start a new one"
        raise TrackingError(f"MLflow's SQLite file {file} cannot be used: {error}; {remedy}") from error


def _check_server(uri: str) -> None:
    base = _without_user_info(uri).rstrip("/")
    exposed = base.startswith("http:") and has_credentials(uri)
    if exposed and (reason := why_exposed(base, "MLflow's credentials")):
        raise TrackingError(f"{setting_of(uri)} {redacted(uri)}: {reason}")
    _request(uri, f"{base}/health", None)
    # /health answers without credentials; a search of one experiment shows whether ours are accepted.
    _request(uri, f"{base}/api/2.0/mlflow/experiments/search", {"max_results": 1})


def _request(uri: str, url: str, body: dict[str, int] | None) -> None:
    request = urllib.request.Request(url)
    for name, value in _authorisation(uri).items():
        request.add_unredirected_header(name, value)  # what answers may name another host
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    shown, proxy = redacted(uri), proxy_of(url)
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S, context=_tls()).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            if has_credentials(uri) and not _authorisation(uri):
                return  # MLflow's client adds them itself
            by = "" if proxy is None else f", or {proxy},"
            first = "" if proxy is None else "name the server's host in NO_PROXY if it was the proxy; else "
            raise TrackingError(
                f"the MLflow server at {shown}{by} refuses the credentials (HTTP {error.code}); {first}set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
        by = "" if proxy is None else f", or {proxy} did"
        raise TrackingError(
            f"{shown} answered HTTP {error.code} to {urlsplit(url).path}{by}; is it an MLflow server? "
            f"({setting_of(uri)} names it)"
        ) from None
    except (OSError, ValueError) as error:
        reason = redacted(str(getattr(error, "reason", error)))
        way, remedy = "", "start it"
        if proxy is not None:
            way, remedy = f" through {proxy}", "check the proxy, or name the server's host in NO_PROXY"
        raise TrackingError(
            f"cannot reach the MLflow server at {shown}{way} ({reason}); {remedy}, or set {setting_of(uri)}"
        ) from None


def has_credentials(uri: str) -> bool:
    """Whether a request to the server at `uri` carries any, from wherever MLflow takes them.

    A client's certificate is none: its key does not travel.
    """
    signed = os.environ.get("MLFLOW_TRACKING_AWS_SIGV4", "").lower() in ("true", "1")
    by_plugin = os.environ.get("MLFLOW_TRACKING_AUTH") or entry_points(group="mlflow.request_header_provider")
    return bool(_authorisation(uri) or _mlflows_own_file().exists() or signed or by_plugin or _in_netrc(uri))


def _in_netrc(uri: str) -> bool:
    """Whether the file has a password for the server, or for any, which MLflow's requests take from there."""
    named = os.environ.get("NETRC")
    for file in (Path(named),) if named else (Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            return netrc(file.expanduser()).authenticators(urlsplit(uri).hostname or "") is not None
        except (OSError, NetrcParseError):  # as requests, which then sends nothing
            continue
    return False


def _mlflows_own_file() -> Path:
    """From which its client takes a user and a password where the environment has none."""
    return Path.home() / ".mlflow" / "credentials"


def _authorisation(uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(parts.username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(parts.password or "")
    if not user:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _without_user_info(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _check_database(uri: str, scheme: str) -> None:
    default_driver, default_port = _DATABASES[scheme]
    driver = uri.partition(":")[0].partition("+")[2] or default_driver
    module = {"mysqldb": "MySQLdb"}.get(driver, driver)
    if find_spec(module) is None:
        raise TrackingError(
            f"{setting_of(uri)} {redacted(uri)} needs the Python module {module}: pip install it"
        )
    parts = urlsplit(uri)
    if parts.hostname is None:  # a Unix socket, named in the query
        return
    try:
        socket.create_connection((parts.hostname, parts.port or default_port), TIMEOUT_S).close()
    except OSError as error:
        raise TrackingError(
            f"cannot reach the tracking database {redacted(uri)} ({error}); start it, or set "
            f"{setting_of(uri)}"
        ) from None

"""Every error of MLflow and of the libraries below it says what to do."""

import inspect
from types import ModuleType

import botocore.exceptions
import mlflow.exceptions
import pytest
import requests.exceptions
import sqlalchemy.exc
import sqlalchemy.orm.exc
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2

from orchestrator.tracking.connection import explained
from orchestrator.tracking.errors import BY_TEXT, CLASSES, CODES, remedy_of
from orchestrator.tracking.preflight import TrackingError

MODULES = (mlflow.exceptions, requests.exceptions, sqlalchemy.exc, sqlalchemy.orm.exc)


def classes_of(module: ModuleType) -> set[str]:
    return {
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind.__module__ == module.__name__
        and not name.startswith("_")
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_class_has_a_row_of_its_own(module):
    """A version that brings another fails here: read what it is, and give it a row."""
    assert classes_of(module) - CLASSES.keys() == set()


def test_every_code_of_mlflow_has_a_row():
    assert set(databricks_pb2.ErrorCode.keys()) == CODES.keys()


def caused_by(cause: Exception, message: str = "API request failed") -> MlflowException:
    error = MlflowException(message)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MlflowException("x", databricks_pb2.RESOURCE_DOES_NOT_EXIST), "deleted meanwhile"),
        (MlflowException("x", databricks_pb2.PERMISSION_DENIED), "ask for the right"),
        (MlflowException("x", databricks_pb2.TEMPORARILY_UNAVAILABLE), "wait"),
        (MlflowException("x", databricks_pb2.ENDPOINT_NOT_FOUND), "the same MLflow there as here"),
        (MlflowException("x"), "its log says why"),
        (caused_by(requests.exceptions.ConnectionError("reset")), "check that it runs"),
        (caused_by(requests.exceptions.ConnectionError("[Errno 111] Connection refused")), "start it again"),
        (caused_by(requests.exceptions.ProxyError("403")), "check HTTP_PROXY"),
        (caused_by(requests.exceptions.SSLError("handshake")), "https in tracking.uri"),
        (caused_by(requests.exceptions.JSONDecodeError("no", "<html>", 0)), "no MLflow server"),
        (caused_by(requests.exceptions.RetryError("too many 503 error responses")), "the server answers"),
        (requests.exceptions.HTTPError("413 Client Error: Request Entity Too Large"), "files so large"),
        (requests.exceptions.HTTPError("403 Client Error: Forbidden for url"), "refuses this"),
        (requests.exceptions.InvalidHeader("Invalid leading whitespace"), "MLFLOW_TRACKING_TOKEN"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"), "the bucket where MLflow"),
        (
            sqlalchemy.exc.OperationalError("INSERT", {}, Exception("no such column: runs.x")),
            "mlflow db upgrade",
        ),
        (
            sqlalchemy.exc.OperationalError("SELECT", {}, Exception("disk I/O error")),
            "check the file and its folder",
        ),
        (ModuleNotFoundError("No module named 'google'"), "install the module that it names"),
        (
            sqlalchemy.exc.NoSuchModuleError("Can't load plugin: sqlalchemy.dialects:oracel"),
            "install the database's driver",
        ),
        (ModuleNotFoundError("No module named 'psycopg2'"), "pip install psycopg2-binary"),
        (
            sqlalchemy.exc.OperationalError("SELECT", {}, Exception("password authentication failed for u")),
            "correct user and password",
        ),
        (
            sqlalchemy.exc.OperationalError("SELECT", {}, Exception('database "x" does not exist')),
            "create that database",
        ),
        (sqlalchemy.exc.OperationalError("SELECT", {}, Exception("server closed")), "takes connections"),
        (
            sqlalchemy.exc.ProgrammingError("SELECT", {}, Exception("permission denied for table runs")),
            "user create and write tables",
        ),
        (
            sqlalchemy.exc.ProgrammingError("SELECT", {}, Exception('relation "runs" does not exist')),
            "mlflow db upgrade",
        ),
        (sqlalchemy.exc.InvalidRequestError("what MLflow did wrong"), "MLflow itself failed"),
    ],
)
def test_it_says_what_to_do_by_the_cause(error, says):
    with (
        pytest.raises(TrackingError, match="cannot open the tracking store") as found,
        explained("u", "open"),
    ):
        raise error
    assert says in str(found.value)
    assert "\n" not in str(found.value)


def test_what_was_hidden_on_purpose_decides_nothing():
    error = RuntimeError("this")
    error.__context__, error.__suppress_context__ = KeyError("No module named 'x'"), True
    assert remedy_of(error) == ""


def test_of_what_is_unknown_it_says_nothing():
    assert remedy_of(KeyError("x")) == ""


def test_every_remedy_is_a_sentence_of_its_own():
    remedies = {*BY_TEXT.values(), *CODES.values(), *CLASSES.values()}
    assert all(" " in remedy and not remedy.endswith(".") for remedy in remedies)

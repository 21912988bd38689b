import base64
import http.server
import os
import socket
import sqlite3
import threading
import time

import pytest

from orchestrator.tracking import TrackingError, check_tracking


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers `statuses[path]`, else 404, and remembers the Authorization headers."""

    def __init__(self, statuses):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.statuses = statuses
        self.authorisations = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class FakeHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.authorisations.append(self.headers.get("Authorization"))
        self.send_response(self.server.statuses.get(self.path, 404))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the base class calls it by this name

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(**statuses):
        server = FakeServer({"/health": 200, "/api/2.0/mlflow/experiments/search": 200} | statuses)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_answering_server_passes(serve):
    check_tracking(serve().address)


def test_credentials_of_the_uri_and_of_the_environment_are_sent(serve, monkeypatch):
    server = serve()
    check_tracking(server.address.replace("//", "//ann:p%40ss@"))
    assert server.authorisations[-1] == "Basic " + base64.b64encode(b"ann:p@ss").decode()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    check_tracking(server.address)
    assert server.authorisations[-1] == "Bearer abc"


def test_refused_credentials_name_the_variables_to_set(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(**{"/api/2.0/mlflow/experiments/search": 401})
    with pytest.raises(TrackingError, match=r"refuses the credentials \(HTTP 401\); set MLFLOW_TRACKING"):
        check_tracking(server.address)


def test_a_proxy_before_the_server_is_named(serve, monkeypatch):
    """It answers for any host; a proxy's refusal looks like the server's own."""
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", serve(**{"http://mlflow.lan:5000/health": 403}).address)
    with pytest.raises(TrackingError) as refused:
        check_tracking("http://mlflow.lan:5000")
    assert "http://mlflow.lan:5000, or the proxy http://127.0.0.1:" in str(refused.value)
    assert "name the server's host in NO_PROXY if it was the proxy; else set MLFLOW_" in str(refused.value)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(TrackingError, match=r"through the proxy .* check the proxy, or name") as away:
            check_tracking("http://mlflow.lan:5000")
    assert str(away.value).endswith("or set tracking.uri")


def test_an_address_from_the_environment_is_called_by_its_variable(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(TrackingError, match="start it, or set MLFLOW_TRACKING_URI"):
            check_tracking(uri)


def test_a_server_that_is_not_mlflow_is_told_apart(serve):
    with pytest.raises(TrackingError, match="is it an MLflow server"):
        check_tracking(serve(**{"/health": 404}).address)


def test_a_closed_port_is_one_line_at_once_and_shows_no_password():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(TrackingError, match="cannot reach the MLflow server") as error:
        check_tracking(f"http://ann:s3cret@127.0.0.1:{port}")
    assert time.monotonic() - began < 3
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.preflight.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingError, match="timed out"):
        check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_the_folder_of_a_new_sqlite_file_is_made(tmp_path):
    check_tracking(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    assert (tmp_path / "new" / "folder").is_dir()


def test_a_folder_where_the_sqlite_file_should_be_is_named(tmp_path):
    with pytest.raises(
        TrackingError, match=f"^{tmp_path} is a folder; name a file in it: sqlite:///{tmp_path}/mlf"
    ):
        check_tracking(f"sqlite:///{tmp_path}")


def test_the_setting_that_an_address_came_from_is_named(monkeypatch):
    with pytest.raises(TrackingError, match=r"^tracking\.uri \./mlruns is a folder"):
        check_tracking("./mlruns")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(TrackingError, match=r"^MLFLOW_TRACKING_URI \./mlruns is a folder"):
        check_tracking("./mlruns")
    with pytest.raises(TrackingError, match=r"^tracking\.uri \./elsewhere is a folder"):
        check_tracking("./elsewhere")


def test_a_corrupt_sqlite_file_is_named(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used: .* move it away"):
        check_tracking(f"sqlite:///{file}")


def test_a_locked_sqlite_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.preflight.TIMEOUT_S", 0.1)
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TrackingError, match="locked"):
        check_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    other.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TrackingError, match="cannot write"):
        check_tracking(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_folder_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot create"):
        check_tracking(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_folder_that_no_file_can_be_made_in_is_refused_even_to_root():
    with pytest.raises(TrackingError, match=r"cannot create .*/proc/mlflow\.db"):
        check_tracking("sqlite:////proc/mlflow.db")


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("sqlite://", "name a file"),
        ("./mlruns", "use sqlite"),
        ("file:///data/mlruns", "use sqlite"),
        ("ftp://host", "MLflow knows http"),
        ("http://[broken", "is not a URI"),
        ("http://host:port", "is not a URI"),
        ("postgresql+nosuchdriver://ann:s3cret@host/db", "needs the Python module nosuchdriver"),
        ("mysql+sqlite3://ann:s3cret@127.0.0.1:1/db", "cannot reach the tracking database"),
    ],
)
def test_a_store_that_cannot_work_is_refused_with_a_remedy(uri, remedy):
    with pytest.raises(TrackingError, match=remedy) as error:
        check_tracking(uri)
    assert "s3cret" not in str(error.value)

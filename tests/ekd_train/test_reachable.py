"""A server that answers is told from one that does not, soon."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ekd_train import reachable
from ekd_train.reachable import why_away


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_whatever_a_server_says_it_answers(status):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert why_away(f"http://127.0.0.1:{server.server_port}/file") is None


def test_a_port_at_which_nothing_listens_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert str(why_away(f"http://127.0.0.1:{port}")).startswith("127.0.0.1 does not answer: ")


def test_one_that_accepts_and_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = why_away(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.2)
    assert "127.0.0.1 does not answer" in str(said)


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch):
    given_up = threading.Event()

    def looks_up():
        given_up.wait(300)
        raise OSError("no such name")

    monkeypatch.setattr(reachable, "build_opener", looks_up)
    assert why_away("http://host.example", timeout_s=0.1) == "host.example does not answer within 0.1 s"
    given_up.set()

"""Starting Ray, or reaching it, has a voice and a bound: real threads, files and sockets in place of Ray."""

import logging
import os
import socket
import subprocess
import sys
import threading

import pytest

from ekd_train import waiting
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime import ray_logging, ray_session, starting
from orchestrator.runtime.address import why_unreachable
from orchestrator.runtime.leftovers import NOTE, processes_of, sweep_sessions
from orchestrator.runtime.ray_logging import divert_logging, logging_kept, quiet_stderr
from orchestrator.runtime.ray_session import LaunchError, start_ray
from orchestrator.runtime.starting import TooSlow, connected, started, why_no_room

linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")


@pytest.fixture
def never(monkeypatch, tmp_path):
    """`ray.init` does not come back, on a machine where nobody has started a cluster."""
    end = threading.Event()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: end.wait())
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(starting, "CONNECT_S", 0.05)
    monkeypatch.setattr(starting, "START_S", 0.05)
    with logging_kept():
        yield
    end.set()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.0.1:6379", r"connect to Ray at 10\.0\.0\.1:6379: .*0\.05 s; .*head runs and answers"),
        ("auto", r"connect to Ray at auto: .*0\.05 s; .*`ray start` has noted no cluster in .*name "),
        ("local", r"start Ray on this machine: .*0\.05 s"),
    ],
)
def test_a_ray_that_neither_starts_nor_answers_is_given_up_and_named(
    never, address, said, monkeypatch, tmp_path
):
    monkeypatch.setattr(ray_session, "why_unreachable", lambda _: None)
    monkeypatch.setattr(ray_session, "exposed_token", lambda _: None)
    with pytest.raises(LaunchError, match=said) as raised:
        start_ray(Cluster(address=address), tmp_path / "ray.log")
    assert "\n" not in str(raised.value)


@pytest.fixture
def spoken(monkeypatch):
    """Lasts until something is said of what is waited for, which is at once."""
    event, handler = threading.Event(), logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda _: event.set())
    monkeypatch.setattr(starting, "Wait", lambda what: waiting.Wait(what, 0.0))
    waiting.log.addHandler(handler)
    yield lambda: event.wait(60)
    waiting.log.removeHandler(handler)


def test_it_is_said_what_is_waited_for(spoken, caplog, tmp_path):
    assert connected(spoken, "head:6379")
    assert caplog.messages[0].startswith("waiting for Ray at head:6379 to answer (0 s)")


def test_it_is_said_that_ray_starts_and_where_it_keeps_its_files(spoken, caplog, tmp_path):
    assert started(spoken, tmp_path)
    assert caplog.messages[0].startswith(f"waiting for Ray to start on this machine, in {tmp_path} (")


def test_what_is_waited_for_is_seen_on_the_terminal_while_what_ray_starts_writes_to_the_log(
    monkeypatch, tmp_path, capfd
):
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w", buffering=1))
    monkeypatch.setattr(ray_logging, "_is_the_terminals", lambda _: True)
    with logging_kept():
        divert_logging(tmp_path / "log")
        with quiet_stderr(tmp_path / "log"):
            subprocess.run(["sh", "-c", "echo of a daemon >&2"], check=True)
            waiting.log.warning("waiting for Ray")
    assert capfd.readouterr().err == "WARNING: waiting for Ray\n"
    log = (tmp_path / "log").read_text()
    assert "of a daemon" in log
    assert "waiting for Ray" in log


def test_what_the_call_returns_or_raises_comes_through(tmp_path):
    def fail():
        raise KeyError("no")

    assert started(lambda: 3, tmp_path) == connected(lambda: 3, "head") == 3
    for call in (lambda: started(fail, tmp_path), lambda: connected(fail, "head")):
        with pytest.raises(KeyError):
            call()


@linux
def test_the_daemons_live_until_the_process_ends_though_a_thread_began_them(tmp_path):
    """Ray asks the kernel to end them with their parent, which to it is a thread."""
    program = (
        "import ctypes, subprocess, sys; from pathlib import Path\n"
        "from orchestrator.runtime.starting import started\n"
        "die = lambda: ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
        "call = lambda: subprocess.Popen(['sleep', '600'], preexec_fn=die, stdout=subprocess.DEVNULL)\n"
        "daemon = started(call, Path(sys.argv[1]))\n"
        "try: daemon.wait(1); print('dead')\n"
        "except subprocess.TimeoutExpired: print(daemon.pid)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pid = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    assert pid.isdigit()
    assert not os.path.exists(f"/proc/{pid}/fd/0")


@linux
def test_a_session_is_signed_while_ray_still_starts_and_is_ended_with_it(tmp_path, monkeypatch):
    """So that the next one removes it, whatever ends this process: a note names it, and when it began."""
    of_another = tmp_path / f"session_0_{os.getpid()}"
    of_another.mkdir()
    session, end = tmp_path / f"session_1_{os.getpid()}", threading.Event()
    daemons = []

    def begin():
        (session / "logs").mkdir(parents=True)
        with (session / "logs" / "gcs").open("wb") as log:
            daemons.append(subprocess.Popen(["sleep", "600"], stdout=log))
        end.wait()

    monkeypatch.setattr(starting, "Wait", Impatient(session / NOTE))
    with pytest.raises(TooSlow):
        started(begin, tmp_path)
    end.set()
    assert daemons[0].wait(60) == -9
    assert processes_of(session) == []
    assert (session / NOTE).read_text().startswith(f"{os.getpid()} ")
    assert not (of_another / NOTE).exists()
    sweep_sessions(tmp_path)
    assert session.exists()  # this process lives


@linux
def test_the_sessions_of_starts_that_were_killed_do_not_pile_up(tmp_path):
    """Each time the process ends itself once its session is signed, which is before Ray has started."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from orchestrator.runtime.leftovers import NOTE, sweep_sessions\n"
        "from orchestrator.runtime.starting import started\n"
        "folder = Path(sys.argv[1]); session = folder / f'session_1_{os.getpid()}'\n"
        "sweep_sessions(folder)\n"
        "def begin():\n"
        "    (session / 'logs').mkdir(parents=True); (session / 'logs' / 'gcs').write_text('began')\n"
        "    while not (session / NOTE).exists(): pass\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "started(begin, folder)\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=300)
        assert done.returncode == -9
        assert len(list(tmp_path.iterdir())) <= 2  # the newest is kept for its logs, and the one just made


class Impatient:
    """A wait that has lasted too long once `sign` is there."""

    def __init__(self, sign):
        self.sign = sign

    def __call__(self, what):
        return self

    def look(self):
        return 1e9 if self.sign.exists() else 0.0


def test_a_full_file_system_is_named_before_ray_starts_and_no_start_is_tried(never, monkeypatch, tmp_path):
    monkeypatch.setattr(starting, "ROOM", 1 << 62)
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: pytest.fail("it was started"))
    with pytest.raises(LaunchError, match=r"file system of .* is full: [\d.]+ MB are free, .*set RAY_TMPDIR"):
        start_ray(Cluster(address="local"), tmp_path / "ray.log")


def test_one_that_fills_up_while_ray_starts_is_what_the_error_names(never, monkeypatch, tmp_path):
    tries = []

    def init(**_):
        tries.append(1)
        monkeypatch.setattr(starting, "ROOM", 1 << 62)
        raise RuntimeError("Timed out waiting for file /x/gcs_server_port_1")

    monkeypatch.setattr(ray_session.ray, "init", init)
    monkeypatch.setattr(starting, "START_S", 60.0)
    with pytest.raises(LaunchError, match=r"gcs_server_port_1; .* is full: ") as raised:
        start_ray(Cluster(address="local"), tmp_path / "ray.log")
    assert "head runs" not in str(raised.value)
    assert len(tries) == 1


def test_a_folder_that_is_not_there_yet_has_the_room_of_the_one_above_it(tmp_path, monkeypatch):
    assert why_no_room(tmp_path / "not" / "yet") is None
    monkeypatch.setattr(starting, "ROOM", 1 << 62)
    assert f"the file system of {tmp_path}," in str(why_no_room(tmp_path / "not" / "yet"))


@pytest.fixture
def server(monkeypatch):
    """A port, and a function to say what is sent to whoever comes; None: nothing, for ever."""
    monkeypatch.setenv("RAY_USE_TLS", "1")
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(answer):
            def run():
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer)
                    over.wait()

            threading.Thread(target=run, daemon=True).start()
            return f"127.0.0.1:{listening.getsockname()[1]}"

        yield serve
        over.set()


def test_with_tls_what_accepts_and_says_nothing_is_not_waited_for(server, monkeypatch):
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: connect(place, timeout=0.2))
    assert why_unreachable(server(b"")) == "nothing answers there (timed out)"


def test_with_tls_what_answers_without_it_is_said(server):
    assert "does not speak TLS" in str(why_unreachable(server(bytes.fromhex("000018040000000000"))))


def test_with_tls_an_answer_that_refuses_us_is_one(server):
    """An alert: handshake failure, as of a server that wants a certificate (RFC 8446, section 6)."""
    assert why_unreachable(server(bytes.fromhex("15030300020228"))) is None

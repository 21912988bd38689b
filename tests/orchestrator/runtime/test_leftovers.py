"""Nothing of a Ray of its own outlives a run: real processes in place of Ray's."""

import os
import subprocess
import sys
import time

import pytest

from orchestrator.runtime import leftovers
from orchestrator.runtime.leftovers import (
    NOTE,
    end_processes_of,
    guard,
    processes_of,
    scratch,
    sweep,
    sweep_sessions,
)

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")


@pytest.fixture
def session(tmp_path):
    folder = tmp_path / "session_1"
    (folder / "logs").mkdir(parents=True)
    return folder


def sleeper(log, **options):
    with log.open("wb") as file:
        return subprocess.Popen(["sleep", "600"], stdout=file, stderr=file, **options)


def test_processes_are_known_by_the_logs_that_they_write(session, tmp_path):
    worker, other = sleeper(session / "logs" / "worker.out"), sleeper(tmp_path / "session_10.out")
    try:
        assert processes_of(session) == [worker.pid]
        end_processes_of(session)
        assert worker.wait(20) == -9
        assert other.poll() is None
    finally:
        for process in (worker, other):
            process.kill()
            process.wait()


def test_what_outlives_a_driver_whose_process_group_is_killed_is_ended(session):
    """The driver: a process that starts its guard, and a worker in a group of its own."""
    program = (
        "import subprocess, sys, time; from pathlib import Path; from orchestrator.runtime import leftovers\n"
        "leftovers.GRACE_S = 0.1; session = Path(sys.argv[1])\n"
        "log = open(session / 'logs' / 'worker', 'wb')\n"
        "worker = subprocess.Popen(['sleep', '600'], stdout=log, start_new_session=True)\n"
        "guard = leftovers.guard(session); print(worker.pid, guard.pid, flush=True); time.sleep(600)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(session)], stdout=subprocess.PIPE, text=True, process_group=0
    )
    worker, watching = map(int, driver.stdout.readline().split())
    assert processes_of(session) == [worker]
    os.killpg(driver.pid, 9)
    driver.wait()
    deadline = time.monotonic() + 60
    while processes_of(session) or os.path.exists(f"/proc/{watching}/fd/0"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_old_sessions_are_removed_but_the_newest_those_of_living_drivers_and_those_of_others(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number, note in enumerate([f"{ended.pid} 1"] * 3 + [None, "no number"]):
        folder = tmp_path / f"session_{number}"
        folder.mkdir()
        if note is not None:
            (folder / NOTE).write_text(note)
        os.utime(folder, (number, number))
    living = tmp_path / "session_5"
    living.mkdir()
    process = guard(living)
    sweep(tmp_path, "session_*")
    process.stdin.close()
    process.wait()
    left = sorted(folder.name for folder in tmp_path.iterdir())
    assert left == ["session_2", "session_3", "session_4", "session_5"]


def test_a_session_that_nobody_signed_is_removed_if_nothing_is_in_it_and_it_is_old(tmp_path):
    """One of Ray's that was killed at once; others hold the logs of what `ray start` began, or may yet."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = ("shell", "logs", "living", "young", "used")
    sessions = {name: tmp_path / f"session_{name}_{ended.pid}" for name in names}
    sessions["living"] = tmp_path / f"session_living_{os.getpid()}"
    for session in sessions.values():
        (session / "logs").mkdir(parents=True)
        (session / "logs" / "raylet.out").touch()
    (sessions["logs"] / "logs" / "gcs.out").write_text("began")
    process = sleeper(sessions["used"] / "logs" / "raylet.out")
    for name, session in sessions.items():
        if name != "young":
            os.utime(session, (1, 1))
    try:
        sweep_sessions(tmp_path)
    finally:
        process.kill()
        process.wait()
    assert {name for name, session in sessions.items() if not session.exists()} == {"shell"}


def test_temporary_folders_of_killed_processes_do_not_pile_up(tmp_path, monkeypatch):
    code = (
        "import os, signal; from orchestrator.runtime.leftovers import scratch\n"
        "with scratch('ekd-test-'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
        assert len(list(tmp_path.iterdir())) <= 2  # the newest is kept for its logs, and the one just made
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch("ekd-test-") as ours, scratch("ekd-test-") as another:
        assert [ours.is_dir(), another.is_dir()] == [True, True]  # of a living process


def test_after_an_error_a_temporary_folder_stays_for_its_log_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(*logs):
        with scratch("ekd-test-", keep="log") as folder:
            for log in logs:
                (folder / log).write_text("said why")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        fail("log")
    assert [folder.name for folder in tmp_path.glob("*/log")] == ["log"]


def test_the_guard_needs_the_standard_library_alone():
    """It starts in 20 ms and stays small: Ray and torch are not imported by it."""
    command = [sys.executable, "-I", "-S", leftovers.__file__, "end", "/nowhere", "0"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0

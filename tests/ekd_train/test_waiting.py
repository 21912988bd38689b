"""What waits says for what and for whom, after ten seconds and every minute."""

import os
import signal
import subprocess
import sys

import pytest

from ekd_train import waiting
from ekd_train.data.user_cache import locked
from ekd_train.waiting import LockHeld, Wait, waiting_for

linux = pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="needs Linux")

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "lock"`."""
    command = [sys.executable, "-I", "-S", "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_wait_speaks_after_ten_seconds_and_then_every_minute(caplog):
    time = [0.0]
    wait = Wait(lambda: "the other one", clock=lambda: time[0])
    spoke = []
    for second in range(200):
        time[0] = float(second)
        caplog.clear()
        assert wait.look() == second
        if caplog.messages:
            spoke.append((second, *caplog.messages))
    assert [second for second, _ in spoke] == [10, 70, 130, 190]
    assert spoke[0][1] == "waiting for the other one (10 s)"


def test_a_call_that_takes_long_is_spoken_of_and_one_that_does_not_is_not(caplog, monkeypatch):
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    spoken = []
    with waiting_for(lambda: spoken.append("asked") or "an answer"):
        while not caplog.messages:
            pass
    assert caplog.messages[0].startswith("waiting for an answer")
    caplog.clear()
    monkeypatch.setattr(waiting, "FIRST_S", 60.0)
    with waiting_for(lambda: "an answer"):
        pass
    assert not caplog.messages


@linux
def test_a_lock_is_waited_for_no_longer_than_it_may_be_and_its_holder_is_named(tmp_path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    os.waitpid(holder.pid, os.WUNTRACED)
    expected = (
        rf"/lock: for 0 s it has been locked by process {holder.pid} \(.+\), which is stopped: continue it "
        rf"with `kill -CONT {holder.pid}`, or end it"
    )
    with pytest.raises(LockHeld, match=expected), locked(tmp_path / "lock", wait_s=0):
        pass


@linux
def test_somebody_who_waits_for_a_lock_is_not_taken_for_its_holder(tmp_path, holder):
    with open(tmp_path / "lock") as file:
        number = os.fstat(file.fileno()).st_ino
        second = subprocess.Popen(holder.args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert f"process {holder.pid} " in waiting.lock_holder(number)
        finally:
            second.kill()
            second.communicate()


def test_a_lock_is_free_again_after_its_block_and_a_pipe_in_its_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("lock", "lock", "pipe"):
        with locked(tmp_path / name), pytest.raises(LockHeld), locked(tmp_path / name, wait_s=0):
            pass

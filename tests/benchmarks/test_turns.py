"""Loops in turns: every turn is answered, and a side that died says why."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers import comparison, environment
from benchmarks.start_up import covered
from benchmarks.turns import Side, in_turns

LOOP = """
from benchmarks.turns import NoMoreTurns, Turns
turns, made = Turns(clock=lambda: 1.0 + made), 0
try:
    while True:
        turns()
        made += 1
except NoMoreTurns:
    pass
"""
"""Its clock counts steps, so that a turn takes as many seconds as it has steps."""


@pytest.mark.slow
def test_a_turn_has_the_steps_that_were_asked_for():
    with Side([sys.executable, "-c", LOOP]) as one, Side([sys.executable, "-c", LOOP]) as other:
        assert [one.take(3), other.take(2), one.take(5)] == [3, 2, 5]
        assert one.take_each(3, settle=2) == [1, 1, 1]
        assert in_turns({"a": one, "b": other}, steps=4, rounds=2, warm_up=1) == {"a": [1, 1], "b": [1, 1]}


CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
print(child.pid, file=sys.stderr, flush=True)
"""
"""As torchrun starts its workers: out of reach of signals to a group or a session."""


def becomes(process, states):
    """Whether a process soon is in one of the states: a signal is taken when it runs next. X: no more."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        file = Path(f"/proc/{process}/stat")
        if (file.read_text().rsplit(")", 1)[1].split()[0] if file.exists() else "X") in states:
            return True
        time.sleep(0.01)
    return False


def stands_still(side):
    """Whether soon no thread of a side spends any time: what was waiting runs once more, in order to stop."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        before = side._cpu_times_ns()
        time.sleep(0.2)
        if side._cpu_times_ns() == before:
            return True
    return False


@pytest.mark.slow
def test_what_a_side_has_started_stops_with_it_and_ends_with_it(monkeypatch):
    monkeypatch.setattr("benchmarks.turns.END_TIMEOUT_S", 1)
    with Side([sys.executable, "-c", CHILD + LOOP + "child.wait()"]) as side:
        side.take(1)
        (busy,) = Path(f"/proc/{side._process.pid}/task/{side._process.pid}/children").read_text().split()
        assert becomes(busy, "T")
        assert stands_still(side)
    assert becomes(busy, "XZ")


@pytest.mark.slow
def test_the_share_beside_training_is_all_but_the_busiest_threads_over_these(monkeypatch):
    told = iter([{"a": 5, "b": 7, "c": 100}, {"a": 405, "b": 607, "c": 150, "new": 25}])
    with Side([sys.executable, "-c", LOOP]) as side:
        monkeypatch.setattr(side, "_cpu_times_ns", lambda: next(told))
        assert side.share_beside(2, 1) == pytest.approx((50 + 25) / (400 + 600))


def test_a_side_that_dies_says_its_last_words():
    command = [sys.executable, "-c", "raise SystemExit('no images')"]
    with Side(command) as side, pytest.raises(RuntimeError, match="no images"):
        side.take(1)


def test_spans_that_overlap_count_once():
    assert covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7
    assert covered([]) == 0


@pytest.mark.slow
@pytest.mark.by_hand
def test_without_the_peers_one_line_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(environment, "PACKAGES", ("no such package",))
    (skipped,) = comparison.measure()
    assert "could not be installed" in skipped.why
    assert "\n" not in skipped.why

"""Loops in turns: every turn is answered, and a side that died says why."""

import sys

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
        assert in_turns({"a": one, "b": other}, steps=4, rounds=2, warm_up=1) == {"a": [1, 1], "b": [1, 1]}


def test_a_side_that_dies_says_its_last_words():
    command = [sys.executable, "-c", "raise SystemExit('no images')"]
    with Side(command) as side, pytest.raises(RuntimeError, match="no images"):
        side.take(1)


def test_spans_that_overlap_count_once():
    assert covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7
    assert covered([]) == 0


@pytest.mark.slow
def test_without_the_peers_one_line_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(environment, "PACKAGES", ("no such package",))
    (skipped,) = comparison.measure()
    assert "could not be installed" in skipped.why
    assert "\n" not in skipped.why

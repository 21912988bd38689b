"""Progress with the time that is left: a line now and then, none for what is quickly done."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.pipeline.progress_bar import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    made = SimpleNamespace(now=100.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr("orchestrator.pipeline.progress_bar.time", made)
    return made


def shown(clock, *, terminal: bool, seconds: int) -> str:
    """What is written while one of 100 things is done each second."""
    file = io.StringIO()
    meter = ProgressBar("things", Console(file=file, force_terminal=terminal, width=200))
    for done in range(1, seconds + 1):
        clock.now += 1
        meter(done, 100)
    meter.close()
    return file.getvalue()


def test_in_a_file_there_is_a_line_every_ten_seconds(clock):
    lines = shown(clock, terminal=False, seconds=40).splitlines()
    assert len(lines) == 4
    assert lines[1] == "things: 20 of 100 (20 %), 1 min 20 s left"


def test_of_what_is_done_no_time_is_left(clock):
    assert shown(clock, terminal=False, seconds=100).splitlines()[-1] == "things: 100 of 100 (100 %)"


def test_on_a_terminal_a_bar_is_drawn_and_removed(clock):
    text = shown(clock, terminal=True, seconds=20)
    assert "20/100" in text
    erase_line = "\x1b[2K"
    assert text.endswith(erase_line)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_takes_two_seconds_is_not_shown(clock, terminal):
    assert shown(clock, terminal=terminal, seconds=2) == ""

"""Messages of libraries are shown as they are, whatever they look like."""

import io
from types import SimpleNamespace

from rich.console import Console
from rich.table import Table

from orchestrator.pipeline.progress import Bars, View
from orchestrator.runtime.event import Advanced, Started


def test_a_message_that_looks_like_markup_is_shown_as_it_is(capsys):
    view = View.open("title", [], "ray.log")
    view.warn("Connection closed by peer [/third_party/gloo/pair.cc:545] [bold]")
    view.close()
    assert "[/third_party/gloo/pair.cc:545] [bold]" in capsys.readouterr().err


def test_plain_lines_of_a_long_run_come_further_and_further_apart(capsys, monkeypatch):
    clock = SimpleNamespace(now=10_000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("orchestrator.pipeline.progress.time", clock)

    def lines_in_the_next_minute(after_s: float) -> int:
        view = View.open("title", [], "ray.log")
        view.expect("student", epochs=10, work=1.0)
        view.show(Started(run="student", epoch=0))
        view.started = clock.now - after_s
        step = Advanced(run="student", epoch=0, loss=1.0, images_per_s=1.0, step=1, steps=100)
        for _ in range(60):
            clock.now += 1
            view.show(step)
        view.close()
        return capsys.readouterr().err.count("epoch 0/10")

    assert lines_in_the_next_minute(after_s=0) == 6
    assert lines_in_the_next_minute(after_s=1000) == 2
    assert lines_in_the_next_minute(after_s=7200) == 0


def test_on_a_terminal_every_run_has_a_bar_and_the_stage_stands_above():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=160)
    view = View("title", console, Bars(console), ["teachers", "distil"])
    view.bars.start()
    view.begin("distil")
    view.expect("student", epochs=10, work=1.0)
    view.panel = lambda: Table("trial")
    view.show(Started(run="student", epoch=0))
    step = Advanced(run="student", epoch=3, loss=0.25, images_per_s=1000.0, step=35, steps=100)
    view.show(step)
    view.bars.refresh()
    view.close()
    text = file.getvalue()
    for shown in ("distil (2 of 2)", "student", "epoch 3/10", "loss 0.2500", "1,000 images/s", "trial"):
        assert shown in text
    assert "starts" not in text


def test_a_run_that_is_expected_again_has_one_bar():
    console = Console(file=io.StringIO(), force_terminal=True)
    view = View("title", console, Bars(console), [])
    view.expect("student", epochs=10, work=1.0)
    view.expect("student", epochs=20, work=1.0)
    assert [task.description for task in view.bars.tasks] == ["student"]

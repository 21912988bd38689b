"""Messages of libraries are shown as they are, whatever they look like."""

from types import SimpleNamespace

from orchestrator.pipeline.progress import View
from orchestrator.runtime.job_queue import Event


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
        view.show(Event("started", 0, "student", {"epoch": 0}))
        view.started = clock.now - after_s
        step = {"epoch": 0, "loss": 1.0, "images_per_s": 1.0, "step": 1, "steps": 100}
        for _ in range(60):
            clock.now += 1
            view.show(Event("progress", 0, "student", step))
        view.close()
        return capsys.readouterr().err.count("epoch 0/10")

    assert lines_in_the_next_minute(after_s=0) == 6
    assert lines_in_the_next_minute(after_s=1000) == 2
    assert lines_in_the_next_minute(after_s=7200) == 0

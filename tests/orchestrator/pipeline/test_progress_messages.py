"""What a person reads while a run is going: bars on a terminal, lines elsewhere, and libraries' messages."""

import io
from types import SimpleNamespace

import pytest
from rich.table import Table

from orchestrator.pipeline.estimate import Training
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.pipeline.progress import View
from orchestrator.runtime.event import Advanced, Started, Validated
from orchestrator.tuning.table import trials_table
from orchestrator.tuning.trial_store import TrialRecord


def on_terminal(width=80) -> View:
    return View(
        ["teachers", "distil"], console=PlainConsole(file=io.StringIO(), force_terminal=True, width=width)
    )


def test_a_message_that_looks_like_markup_is_shown_as_it_is(capsys):
    view = View()
    view.warn("Connection closed by peer [/third_party/gloo/pair.cc:545] [bold]")
    view.stop()
    assert "[/third_party/gloo/pair.cc:545] [bold]" in capsys.readouterr().err


def test_plain_lines_of_a_long_run_come_further_and_further_apart(capsys, monkeypatch):
    clock = SimpleNamespace(now=10_000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("orchestrator.pipeline.progress.time", clock)

    def lines_in_the_next_minute(after_s: float) -> int:
        view = View()
        view.expect(Training("student", epochs=10, effort=1.0))
        view.show(Started(run="student", epoch=0))
        view.opened = clock.now - after_s
        step = Advanced(run="student", epoch=0, loss=1.0, images_per_s=1.0, step=1, steps=100)
        for _ in range(60):
            clock.now += 1
            view.show(step)
        view.stop()
        return capsys.readouterr().err.count("epoch 0/10")

    assert lines_in_the_next_minute(after_s=0) == 6
    assert lines_in_the_next_minute(after_s=1000) == 2
    assert lines_in_the_next_minute(after_s=7200) == 0


def test_runs_whose_epochs_are_shorter_than_a_report_of_progress_show_it_too(capsys, monkeypatch):
    clock = SimpleNamespace(now=10_000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("orchestrator.pipeline.progress.time", clock)
    view = View()
    view.expect(Training("student", epochs=40, effort=1.0))
    view.show(Started(run="student", epoch=0))
    clock.now += 11
    view.show(Validated(run="student", record={"epoch": 10, "train/loss": 1.0, "averaged/accuracy": 0.5}))
    shown = "student: epoch 10/40, loss 1.000, val. 50.0 %, 33 s left; all training: 33 s left"
    assert shown in capsys.readouterr().err


def test_what_takes_longer_than_expected_is_not_said_to_take_no_time_at_all(capsys, monkeypatch):
    clock = SimpleNamespace(now=10_000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("orchestrator.pipeline.progress.time", clock)
    view = View()
    view.expect(Training("student", epochs=40, effort=1.0))
    view.expect(Training("trial-0000", epochs=40, effort=1.0, trial=True), bar=False)
    record = {"train/loss": 1.0, "averaged/accuracy": 0.5}
    for name in ("student", "trial-0000"):
        view.show(Started(run=name, epoch=0))
        view.show(Validated(run=name, record=record | {"epoch": 1}))
    clock.now += 11
    for name in ("student", "trial-0000"):
        view.show(Validated(run=name, record=record | {"epoch": 39}))
    clock.now += 60
    assert view.told("trial-0000").endswith(", soon done")
    assert view.all_left() == ""
    view.show(Advanced(run="student", epoch=39, loss=1.0, images_per_s=1.0, step=3990, steps=4000))
    assert "val. 50.0 %, soon done\n" in capsys.readouterr().err
    running = TrialRecord(number=0, values={})
    console = PlainConsole(file=io.StringIO(), width=120)
    console.print(trials_table({0: running}, view=view))
    assert "soon done" in console.file.getvalue()
    view.stop()


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_every_run_has_a_bar_and_the_stage_stands_above(width):
    view = on_terminal(width)
    view.begin("distil")
    view.expect(Training("student", epochs=200, effort=1.0))
    view.panel = lambda: Table("trial")
    view.show(Started(run="student", epoch=0))
    view.show(Validated(run="student", record={"epoch": 3, "train/loss": 0.2, "averaged/accuracy": 0.965}))
    view.show(Advanced(run="student", epoch=120, loss=0.25, images_per_s=1000.0, step=35, steps=100))
    view.refresh()
    view.stop()
    text = view.to.file.getvalue()
    shown = ["distil (2 of 2)", "student", "epoch 120/200", "loss 0.250", "val. 96.5 %", "soon", "trial"]
    for words in [*shown, "1,000 images/s"] if width == 120 else shown:
        assert words in text
    assert "…" not in text
    assert "starts" not in text


def test_a_run_that_is_expected_again_has_one_bar():
    view = on_terminal()
    view.expect(Training("student", epochs=10, effort=1.0))
    view.expect(Training("student", epochs=20, effort=1.0))
    view.stop()
    assert [task.description for task in view.tasks] == ["starting", "student"]


def test_sentences_wrap_between_words_and_addresses_stay_whole():
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=30)
    address = "s3://bucket/a/very/long/prefix/of/runs/report.html"
    console.say(f"the whole report of this run is at {address} now")
    assert console.file.getvalue().splitlines() == ["the whole report of this run", "is at", address, "now"]
    plain = PlainConsole(file=io.StringIO(), width=30)
    plain.say(f"the whole report of this run is at {address} now")
    assert plain.file.getvalue().count("\n") == 1


def test_a_table_that_is_too_wide_loses_the_columns_that_can_be_spared():
    def shown(width):
        console = PlainConsole(file=io.StringIO(), width=width)
        table = Table("predictor", "accuracy", "ECE", "NLL", box=None)
        table.add_row("averaged", "97.12", "0.0123", "0.1234")
        console.show(table, spare=("ECE", "accuracy"))
        return console.file.getvalue()

    assert "ECE" in shown(80)
    assert "wider" not in shown(80)
    narrow = shown(31).splitlines()
    assert "0.0123" not in narrow[1]
    assert "97.12" in narrow[1]
    assert narrow[2] == "(a wider terminal shows ECE too)"


@pytest.mark.parametrize("width", range(20, 60))
def test_what_is_left_of_a_table_is_not_cut(width):
    console = PlainConsole(file=io.StringIO(), width=width)
    names = ["trial", "state", "accuracy", "temperature", "members", "strength"]
    table = Table(*names, box=None, pad_edge=False)
    table.add_row("trial-0001", "finished", "97.12 %", "1.11", "2", "3.06")
    console.show(table, spare=["state", *names[:2:-1]])
    assert "…" not in console.file.getvalue()

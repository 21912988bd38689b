"""What a command prints fits a terminal of 80 columns and breaks no word; in a file a sentence is a line."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.commands import doctor
from orchestrator.cli.main import main, print_error
from orchestrator.errors import ExperimentError
from orchestrator.experiment.packaged import packaged_experiments
from orchestrator.planning.doctor import Finding

COMMANDS = Path(doctor.__file__).parent
RAW = {"experiments", "keys", "schema", "submit"}
"""Commands that print YAML, JSON, a manual of 80 columns, or a job's log as they are."""
LONG = (
    "storage.uri 's3://a-bucket/with/a/prefix': cannot be written: the credentials that were found may only "
    "read it; ask for s3:PutObject, or choose another place by --set storage.uri=FOLDER"
)
LISTED = {
    "storage": "/home/ann/runs: write, conditional write, read, list, delete; it is another host's",
    "tracking": "sqlite:////home/ann/runs/mlflow.db",
}


Lines = Callable[[], list[str]]


def on_terminal(stream: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lines:
    """Makes `stream` a terminal of 80 columns; the lines that it shows, none of which is too long."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)

    def lines() -> list[str]:
        shown = getattr(capsys.readouterr(), stream.removeprefix("std")).splitlines()
        assert max(map(len, shown)) <= 80
        return shown

    return lines


def test_an_error_wraps_between_words(monkeypatch, capsys):
    errors = on_terminal("stderr", monkeypatch, capsys)
    print_error(ExperimentError(LONG))
    assert " ".join(errors()) == f"ekd: {LONG}"


def test_an_error_in_a_log_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_error(ExperimentError(LONG))
    assert capsys.readouterr().err == f"ekd: {LONG}\n"


def test_what_a_key_was_set_to_is_shown_on_a_terminal_too(monkeypatch, capsys):
    errors = on_terminal("stderr", monkeypatch, capsys)
    print_error(ExperimentError("'api_key=mine': unknown key"))
    assert "api_key=mine" in " ".join(errors())


def test_wrong_arguments_wrap_between_words(monkeypatch, capsys):
    errors = on_terminal("stderr", monkeypatch, capsys)
    with pytest.raises(SystemExit) as ended:
        main(["clean", "--no-such-option", "mine", *LONG.split()])
    assert ended.value.code == 2
    assert LONG in " ".join(errors())


def test_the_findings_of_the_doctor_stand_below_each_other(monkeypatch, capsys):
    results = on_terminal("stdout", monkeypatch, capsys)
    found = [Finding(what, True, detail, 0.25) for what, detail in LISTED.items()]
    monkeypatch.setattr(doctor, "diagnose", lambda experiment: iter(found))
    assert main(["doctor"]) == 0
    first, second, third = results()
    assert first.startswith("ok   storage      0.25 s  /home/ann/runs: write,")
    assert second == " " * first.index("/home") + second.lstrip()
    assert f"{first} {second.lstrip()}".endswith(LISTED["storage"])
    assert third == f"ok   tracking     0.25 s  {LISTED['tracking']}"


def test_the_list_of_experiments_fits_a_terminal(monkeypatch, capsys):
    results = on_terminal("stdout", monkeypatch, capsys)
    assert main(["experiments"]) == 0
    names = [line.split()[0] for line in results() if line and not line.startswith(" ")]
    assert set(packaged_experiments()) <= set(names)


def test_no_command_prints_past_the_console():
    printing = {
        file.stem
        for file in COMMANDS.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == RAW

"""How a command ends that fails: one line, a hint where it is true, and the status of its error."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ekd_train.data import DataError
from ekd_train.errors import EkdError
from ekd_train.persistence.checkpoint import DamagedCheckpoint
from orchestrator.cli.commands import experiments
from orchestrator.cli.main import main
from orchestrator.errors import CONTINUES, ExperimentError, continuable
from orchestrator.pipeline.lease import LeaseHeld
from orchestrator.pipeline.run_context import RunFailed
from orchestrator.registry.champion import NoSuchVersion
from orchestrator.registry.exported_model import ExportError
from orchestrator.runtime.ray_session import LaunchError
from orchestrator.storage import MissingKey, StorageError
from orchestrator.tracking import TrackingError

ROOT = Path(__file__).parents[3]
ERRORS = {
    ExperimentError("seed: wrong"): (2, "ekd: seed: wrong\n"),
    NoSuchVersion("no version 9"): (2, "ekd: no version 9\n"),
    RunFailed("two\n  lines"): (1, "ekd: two lines\n"),
    LeaseHeld("run by another"): (1, "ekd: run by another\n"),
    LaunchError("no Ray"): (1, "ekd: no Ray\n"),
    ExportError("another function"): (1, "ekd: another function\n"),
    DamagedCheckpoint("not what was written"): (1, "ekd: not what was written\n"),
    StorageError("s3://b/k", "away", "wait"): (1, "ekd: s3://b/k: away; wait\n"),
    MissingKey("s3://b/k"): (1, "ekd: s3://b/k: nothing is stored here; check the name and the storage\n"),
    DataError("x.png", "broken", "replace it"): (1, "ekd: x.png: broken; replace it\n"),
    TrackingError("http://ann:secret@host: away"): (1, "ekd: http://***@host: away\n"),
}


@pytest.mark.parametrize(("error", "ended"), ERRORS.items(), ids=lambda value: type(value).__name__)
def test_every_error_is_one_line_without_credentials_and_has_a_status(error, ended, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr(experiments, "run", fail)
    assert (main(["experiments"]), capsys.readouterr().err) == ended


def test_what_fails_in_a_run_says_that_the_same_command_continues(monkeypatch, capsys):
    def fail(arguments):
        with continuable():
            raise RunFailed("student: diverged")

    monkeypatch.setattr(experiments, "run", fail)
    assert main(["experiments"]) == 1
    assert capsys.readouterr().err == f"ekd: student: diverged\nekd: {CONTINUES}\n"


def test_wrong_input_promises_nothing(monkeypatch):
    with pytest.raises(ExperimentError) as raised, continuable():
        raise ExperimentError("this run has other settings")
    assert raised.value.hint is None


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(experiments, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["experiments"])


@pytest.mark.parametrize(
    ("word", "said"),
    [("statsu", "no command 'statsu'; did you mean status?"), ("zzz", "no command 'zzz'; `")],
)
def test_an_unknown_command_is_answered_with_the_nearest(word, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_every_public_error_of_the_product_has_the_one_base():
    public = [
        (file, node.name)
        for package in ("orchestrator", "ekd_train", "tune_spaces")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    for file, name in public:
        module = __import__(".".join(file.relative_to(ROOT).with_suffix("").parts), fromlist=[name])
        assert issubclass(getattr(module, name), EkdError) or name == "EkdError", f"{file}: {name}"
    assert len(public) > 12


def test_a_command_that_has_said_all_ends_though_something_waits_for_ever():
    program = (
        "import sys, threading; from orchestrator.cli import main\n"
        "main.ENDING_S, main.main = 0.1, lambda: 3\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "sys.exit(main.command())"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=300).returncode == 3

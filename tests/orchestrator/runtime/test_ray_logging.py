"""What a run says is on the terminal once, whoever else has a handler of messages."""

import io
import logging
import subprocess
import sys

import pytest

from orchestrator.pipeline import progress
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.runtime.ray_logging import divert_logging, logging_kept, root_logger_kept


@pytest.fixture
def root():
    """The root logger, given back with the handlers and the level that it had."""
    with logging_kept():
        pass  # what an earlier test of this process may have left is gone
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_a_line_is_printed_once_though_a_library_prints_messages_too(root, tmp_path, capsys):
    root.addHandler(logging.StreamHandler(sys.stderr))
    with logging_kept():
        divert_logging(tmp_path / "log")
        view = progress.View(console=PlainConsole(stderr=True))
        view.say("teachers ...")
        view.stop()
        logging.getLogger("mlflow").info("of a library")
    assert capsys.readouterr().err == "teachers ...\n"
    log = (tmp_path / "log").read_text()
    assert log.count("teachers ...") == log.count("of a library") == 1


def test_afterwards_the_callers_handlers_have_what_they_had_and_each_line_meanwhile_but_the_runs(
    root, tmp_path
):
    printing, elsewhere = logging.StreamHandler(sys.stderr), logging.StreamHandler(io.StringIO())
    root.addHandler(printing)
    root.addHandler(elsewhere)
    before = list(root.handlers)
    with logging_kept():
        divert_logging(tmp_path / "first")
        divert_logging(tmp_path / "second")
        logging.getLogger("ray").warning("of Ray")
        logging.getLogger(progress.log.name).warning("of the run")
    assert set(root.handlers) == set(before)
    assert elsewhere.stream.getvalue() == "of Ray\n"
    assert logging.getLogger(progress.log.name).propagate
    assert not logging.getLogger(progress.log.name).handlers


def test_a_library_that_sets_up_the_root_logger_as_it_is_imported_leaves_no_handler(root):
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    with root_logger_kept():
        logging.basicConfig(level=logging.ERROR)
        assert root.handlers
    assert not root.handlers
    assert root.level == logging.WARNING


def test_reading_a_registered_model_leaves_no_handler_on_the_root_logger(tmp_path):
    """In a process of its own: MLflow sets up logging as its module for torch is imported first."""
    program = (
        "import logging, sys; from pathlib import Path\n"
        "from orchestrator.registry.exported_model import ExportError, load_exported\n"
        "try: load_exported(Path(sys.argv[1]), '')\n"
        "except ExportError: print(logging.getLogger().handlers, 'mlflow.pytorch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "[] True\n"

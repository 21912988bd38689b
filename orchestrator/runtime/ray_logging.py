"""Where the messages of Ray and other libraries go: to a file, not between the lines of a run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TextIO

from ekd_train import waiting

SAID = "orchestrator.pipeline.progress"
"""The logger of the lines that a run prints itself: they go to the log alone, whoever else has handlers."""


class RunLog(logging.StreamHandler[TextIO]):
    """Ours, told from one that a caller from Python has."""

    set_aside: tuple[logging.Handler, ...] = ()
    """What printed on this terminal until this came."""


class Unheard(logging.Handler):
    """Says on stderr what is waited for where nothing else on this terminal does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of `record`."""
        if waiting.log.handlers == [self]:
            print(f"WARNING: {record.getMessage()}", file=sys.stderr, flush=True)


def divert_logging(log_file: Path) -> None:
    """Send the messages of Ray and other libraries to `log_file` instead of the terminal.

    Handlers on the root that print there, which are a library's, or of a caller who reads the run's own lines
    there, are set aside until `logging_kept` ends; those that write elsewhere stay.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = RunLog(TextIOWrapper(_appending(log_file), encoding="utf-8", errors="backslashreplace"))
    logging.raiseExceptions = False  # the run itself says that a disk is full, not every message
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    _forget_others(root)
    handler.set_aside = tuple(filter(_prints, root.handlers))
    for printing in handler.set_aside:
        root.removeHandler(printing)
    root.addHandler(handler)
    said = logging.getLogger(SAID)
    said.addHandler(handler)
    said.propagate = False
    waiting.log.addHandler(Unheard())
    logging.getLogger("orchestrator").setLevel(logging.INFO)  # what the run says
    for name in ("ray", "ray.train", "ray.tune", "mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)


def _prints(handler: logging.Handler) -> bool:
    """Whether it writes to this process's terminal, or to what stands in its place."""
    places = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in places


def _forget_others(root: logging.Logger) -> None:
    said = logging.getLogger(SAID)
    said.propagate = True
    for old in {handler for handler in (*root.handlers, *said.handlers) if isinstance(handler, RunLog)}:
        root.removeHandler(old)
        said.removeHandler(old)
        for printing in old.set_aside:
            root.addHandler(printing)
        old.close()
        with contextlib.suppress(OSError):  # a full disk
            old.stream.close()
    for unheard in [handler for handler in waiting.log.handlers if isinstance(handler, Unheard)]:
        waiting.log.removeHandler(unheard)


def _appending(log_file: Path) -> BinaryIO:
    """The file, open at its end. A link, which somebody else may have put there, is an OSError."""
    return open(os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab")


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Afterwards nothing more is diverted: the process is not ours, and goes on."""
    raising = logging.raiseExceptions
    try:
        yield
    finally:
        _forget_others(logging.getLogger())
        logging.raiseExceptions = raising


@contextlib.contextmanager
def root_logger_kept() -> Iterator[None]:
    """For the import of a library that sets up logging for the whole process: afterwards it is as before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for added in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(added)
        root.setLevel(level)


def quieten(log_file: Path) -> None:
    """From here on, stderr goes to `log_file`: Ray complains when it is left in the middle of something."""
    sys.stderr.flush()
    with contextlib.suppress(OSError), _appending(log_file) as file:
        os.dup2(file.fileno(), 2)


@contextlib.contextmanager
def quiet_stderr(log_file: Path) -> Iterator[None]:
    """While Ray starts, what its processes write to stderr goes to `log_file`; what we print does not."""
    with _appending(log_file) as file, open(os.dup(2), "w", buffering=1, errors="backslashreplace") as saved:
        before = sys.stderr
        if _is_the_terminals(before):
            before.flush()
            sys.stderr = saved
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved.fileno(), 2)
            if sys.stderr is saved:
                sys.stderr = before


def _is_the_terminals(stream: TextIO | None) -> bool:
    """Whether it writes to the process's stderr; one that was put in its place writes elsewhere."""
    try:
        return stream is not None and stream.fileno() == 2
    except (OSError, ValueError):
        return False

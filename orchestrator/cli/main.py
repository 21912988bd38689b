"""The command line: parses first, and imports what a command needs after that.

Exit status: 0 done, 1 the run failed, 2 the input is wrong and nothing was started.
"""

import argparse
import atexit
import errno
import io
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from orchestrator.cli.search_options import add_search_options
from orchestrator.cli.table import COMMANDS
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.redaction import redacted, visible, without_user_info

EPILOG = """examples:
  ekd run digits                               the whole job, no download
  ekd plan fashion_mnist                       what would run, and its cost
  ekd run fashion_mnist --set student.training.epochs=5
  ekd run my_experiment.yaml --smoke           the real thing made small
  ekd tune digits --space student --trials 12  search, then train the best
  ekd keys student.training                    what can be set, and its meaning

after a run, which `ekd status` lists:
  ekd report                                   the newest run, and its page
  ekd models                                   all that is registered, and why
  ekd promote models:/ekd-digits/2 --reason "smaller images"
  ekd rollback ekd-digits --reason "wrong on sevens"
  ekd export models:/ekd-digits@champion --output student.pt2
"""


ENDING_S = 30.0
"""How long a command that has said all may still take to end: Ray, after a failure, may wait for ever."""

FIRST_LINE = "ekd: checking experiment, data, storage and tracking ..."
"""Of what trains, where there is no terminal: imports and checks take seconds, without another sign."""


def command() -> int:
    """`ekd` as a process: `main`, and an end that does not take apart all of torch and MLflow (2 s)."""
    ended: list[int] = []
    atexit.register(_exit_at_once, ended)  # the first to be registered is the last to be called
    ended.append(main())
    last = threading.Timer(ENDING_S, _exit_at_once, [ended])  # whatever waits for what does not come
    last.daemon = True
    last.start()
    return ended[0]


def _exit_at_once(ended: list[int]) -> None:
    if ended:  # else an exception, or argparse, has another status
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:  # a closed one
                    stream.flush()
        os._exit(ended[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (default: the process's); the exit status."""
    parsed = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a path may have any letter
    try:
        os.getcwd()
    except OSError:
        _say("ekd: the folder you are in was removed; change to another one")
        return 2
    try:
        listening: AbstractContextManager[None] = nullcontext()
        if "experiment" in parsed:
            # What is wrong in it is said before the command's own imports, which take seconds.
            from orchestrator.experiment.schema import load_experiment
            from orchestrator.runtime.address import loopback_alone

            listening = loopback_alone(load_experiment(parsed.experiment, parsed.overrides).cluster)
            if parsed.command in ("run", "tune") and sys.stderr is not None and not sys.stderr.isatty():
                print(FIRST_LINE, file=sys.stderr, flush=True)
        from orchestrator.cli.terminal import waiting  # rich, for which `ekd --help` need not wait

        with listening, waiting("loading"):
            command = import_module(f"orchestrator.cli.commands.{parsed.command}")
        status: int = command.run(parsed)
        sys.stdout.flush()
    except EkdError as error:
        print_error(error)
        return error.exit_status
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:  # what is printed has no name
            raise
        with suppress(OSError):
            sys.stdout.close()
        _say("ekd: cannot print the results: the disk that they go to is full; free some space")
        return 1
    except KeyboardInterrupt:
        _say("ekd: interrupted; the same command continues where it stopped")
        return 1
    return status


def print_error(error: EkdError) -> None:
    """Print the error's one line, and its hint, on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Of what is wrong with an input `key=value` is no secret: whoever wrote it has it on this terminal.
    shown = without_user_info(text) if isinstance(error, ExperimentError) else redacted(text)
    _say(f"ekd: {visible(shown)}")
    if error.hint is not None:
        _say(f"ekd: {error.hint}")


def _say(line: str) -> None:
    """`line` on stderr, as `PlainConsole.say` has it, but without rich, and with whatever it quotes."""
    if sys.stderr is not None and sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr)


class _Version(argparse.Action):
    """Prints it; looks for it only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"ekd {version('ekd')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; its subcommands' parsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        """Print `message`, and for a command that is not there the nearest one; exit status 2."""
        if unknown := re.match(r"argument COMMAND: invalid choice: '(.*)' \(", message):
            near = get_close_matches(unknown[1], COMMANDS, n=1)
            message = f"no command {unknown[1]!r}" + "".join(f"; did you mean {name}?" for name in near)
        message = visible(without_user_info(message))
        _say(f"{self.prog}: {message}; `{self.prog} --help` shows how")
        self.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `ekd`."""
    parser = _Parser(
        prog="ekd",
        description="Turn an ensemble of networks into one network at the cost of one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help, description=command.description)
        for argument, options in command.arguments:
            added.add_argument(argument, **options)
        if command.search is not None:
            add_search_options(added, required=command.search == "required")
    return parser

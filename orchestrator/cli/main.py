"""The command line: parses first, and imports what a command needs after that.

Exit status: 0 done, 1 the run failed, 2 the input is wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from orchestrator.cli.evaluate_command import add_evaluate_command
from orchestrator.cli.options import add_overrides, add_storage
from orchestrator.cli.registry_commands import add_registry_commands
from orchestrator.cli.report_command import add_report_command

EPILOG = """examples:
  ekd run digits                               the whole job, no download
  ekd plan fashion_mnist                       what would run, and its cost
  ekd run fashion_mnist --set student.training.epochs=5
  ekd run my_experiment.yaml --smoke           the real thing made small
  ekd tune digits --space student --trials 12  search, then train the best

after a run, which `ekd status` lists:
  ekd report RUN_ID                            what came of it, and its page
  ekd models                                   all that is registered, and why
  ekd promote models:/ekd-digits/2 --reason "smaller images"
  ekd rollback ekd-digits --reason "wrong on sevens"
  ekd export models:/ekd-digits@champion --output student.pt2
"""


def command() -> int:
    """`ekd` as a process: `main`, and an end that does not take apart all of torch and MLflow (2 s)."""
    ended: list[int] = []
    atexit.register(_exit_at_once, ended)  # the first to be registered is the last to be called
    ended.append(main())
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
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a path may have any letter
    from orchestrator.cli import commands
    from orchestrator.errors import ExperimentError

    try:
        os.getcwd()
    except OSError:
        print("ekd: the folder you are in was removed; change to another one", file=sys.stderr)
        return 2
    try:
        status: int = getattr(commands, parsed.command)(parsed)
        sys.stdout.flush()
    except ExperimentError as error:
        print("ekd:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:  # what is printed has no name
            raise
        with suppress(OSError):
            sys.stdout.close()
        print(
            "ekd: cannot print the results: the disk that they go to is full; free some space",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("ekd: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 1
    return status


class _Version(argparse.Action):
    """Prints it; looks for it only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"ekd {version('ekd')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; its subcommands' parsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` shows how\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `ekd`."""
    from orchestrator.cli.search_options import add_search_options

    parser = _Parser(
        prog="ekd",
        description="Turn an ensemble of networks into one network at the cost of one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="train, distil, average, evaluate and register; again: continue",
        description="The whole main job. The same command again continues an interrupted run and redoes "
        "nothing. The last line on stdout is the registered model's URI.",
    )
    _add_experiment(run)
    _add_run_id(run)

    plan = commands.add_parser(
        "plan",
        help="what would run, where, and what it would cost",
        description="Every training run with its workers, batch, learning rate and cost, against what the "
        "cluster has, and where things are stored. Starts nothing; exit status 2 if it can never be "
        "scheduled.",
    )
    _add_experiment(plan)
    _add_run_id(plan)
    add_search_options(plan, required=False)

    tune = commands.add_parser(
        "tune",
        help="search for the best student, then train it in full and register it",
        description="Trains the teachers once, searches a space with Ray Tune, then trains, averages, "
        "evaluates and registers the best configuration. The same command again continues. The last "
        "line on stdout is the registered model's URI.",
    )
    _add_experiment(tune)
    _add_run_id(tune)
    add_search_options(tune, required=True)

    _add_cluster_commands(commands)

    status = commands.add_parser(
        "status",
        help="where runs stand",
        description="All runs of a storage, or the stages and training runs of one.",
    )
    status.add_argument("run_id", nargs="?", metavar="RUN_ID", help="default: list all runs")
    add_storage(status)

    add_report_command(commands)
    add_evaluate_command(commands)
    add_registry_commands(commands)

    commands.add_parser(
        "experiments",
        help="what is packaged",
        description="The packaged experiments and search spaces; copy one to a file of yours to change it.",
    ).add_argument("name", nargs="?", metavar="NAME", help="print the YAML of this experiment or space")

    doctor = commands.add_parser(
        "doctor",
        help="whether cluster, storage, tracking and data are usable from here",
        description="Tries everything that a run would use, and says what is wrong and what to do. "
        "Exit status 2 if something is not usable.",
    )
    doctor.add_argument(
        "experiment", nargs="?", default="digits", metavar="EXPERIMENT", help="default: digits"
    )
    add_overrides(doctor)
    return parser


def _add_cluster_commands(commands: Any) -> None:
    """Of `orchestrator.cli.cluster_commands`."""
    submit = commands.add_parser(
        "submit",
        help="the same main job on a Ray cluster, through its job API",
        description="Sends the code and the experiment (no data, no credentials), starts `ekd run` on the "
        "cluster's head and follows its log. Ctrl-C lets go of it: it runs on. A run that is running is "
        "attached to, one that failed is continued.",
    )
    _add_experiment(submit)
    _add_run_id(submit)
    submit.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS",
    )
    submit.add_argument(
        "--no-wait", dest="wait", action="store_false", help="do not follow the log: submit and return"
    )

    register = commands.add_parser(
        "register",
        help="register a run whose tracking server was away at its end",
        description="The last stages of a run that is trained and measured, without Ray: register the "
        "student, write the summary, deliver what MLflow was not told.",
    )
    register.add_argument("run_id", metavar="RUN_ID", help="as `ekd status` lists it")
    add_storage(register)
    add_overrides(register)

    clean = commands.add_parser(
        "clean",
        help="remove what finished runs no longer need",
        description="Removes checkpoints and Ray's files of finished runs; networks, results and manifest "
        "stay. With --everything, all that the named run has in storage (MLflow keeps what it has).",
    )
    clean.add_argument("run_id", nargs="?", metavar="RUN_ID", help="default: all finished runs")
    clean.add_argument("--everything", action="store_true", help="remove the named run, finished or not")
    add_storage(clean)


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="a packaged experiment's name, or a YAML file"
    )
    add_overrides(parser)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the same experiment, over two epochs of a few images, in thin networks",
    )


def _add_run_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-id",
        metavar="ID",
        help="default: made of the experiment's name and settings, so that it continues",
    )

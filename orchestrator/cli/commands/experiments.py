"""`ekd experiments`: what is packaged, search spaces too."""

import argparse
import textwrap

from orchestrator.cli.terminal import results_console
from orchestrator.experiment.packaged import find_experiment, packaged_experiments, read_experiment
from orchestrator.experiment.redaction import visible
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.tuning.space import PACKAGED, load_space, packaged_spaces


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or the YAML of the one that is named; the exit status."""
    if arguments.name in packaged_spaces():
        print((PACKAGED / f"{arguments.name}.yaml").read_text(encoding="utf-8"), end="")
        return 0
    if arguments.name is not None:
        print(visible(read_experiment(find_experiment(arguments.name))), end="")
        return 0
    console = results_console()
    for name in packaged_experiments():
        _show(console, name, load_experiment(name).description)
    console.say("\nSearch spaces, for --space:\n")
    for name in packaged_spaces():
        _show(console, name, load_space(name).description)
    return 0


def _show(console: PlainConsole, name: str, description: str) -> None:
    shown = textwrap.fill(f"{name:20s} {description}", console.width, subsequent_indent=" " * 21)
    console.print(shown, soft_wrap=True)

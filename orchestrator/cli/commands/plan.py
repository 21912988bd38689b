"""`ekd plan`: what would run."""

import argparse
import sys

from orchestrator.cli.checks import checked_experiment, named_experiment
from orchestrator.cli.search_options import check_no_search
from orchestrator.cli.terminal import results_console
from orchestrator.pipeline.networks import networks_of
from orchestrator.planning.contacts import contacts
from orchestrator.planning.doubts import doubts
from orchestrator.planning.memory import memory_lines
from orchestrator.planning.plan import plan_lines, planned_runs, runs_table, total_line


def run(arguments: argparse.Namespace) -> int:
    """Print what would run, where, and its cost; the exit status."""
    console = results_console()
    # Before any is contacted, with whatever credentials the environment has, and before any code runs.
    named = named_experiment(arguments)
    code = f"; runs the code of {', '.join(named.own_modules)}" if named.own_modules else ""
    console.say(f"contacts  {contacts(named)}{code}")
    sys.stdout.flush()
    search = None
    if arguments.space is not None:
        # Optuna takes a second to import, and only a search needs it.
        from orchestrator.cli.searches import checked_search
        from orchestrator.tuning.plan import search_lines

        search, checked = checked_search(arguments)
    else:
        check_no_search(arguments)
        checked = checked_experiment(arguments)

    def warn(line: str) -> None:
        console.say(f"WARNING: {line}")

    networks = networks_of(checked.storage, checked.run_id, checked.experiment, checked.description)
    planned = planned_runs(checked.experiment, checked.description, networks, warn)
    for line in plan_lines(checked):
        console.say(line)
    memory = checked.memory
    if arguments.memory and not memory:
        packed = checked.dataset.packed is not None
        memory = tuple(memory_lines(checked.experiment, checked.description, checked.capacity, packed=packed))
    for line in memory:
        console.say(line)
    console.print()
    console.print(runs_table(planned))
    console.print()
    console.say(total_line(planned, "without the search" if search else ""))
    found = (*checked.dataset.findings, *checked.given.warnings)
    searched = search.space.domains if search is not None else ()
    for doubt in doubts(checked.experiment, found, checked.description.train, searched):
        warn(doubt)
    if search is not None:
        console.print()
        for line in search_lines(search, checked.experiment, checked.description, checked.capacity):
            console.say(line)
    return 0

"""`ekd rollback`: make the champion before the present one the champion again."""

import argparse

from orchestrator.cli.registry_client import check_model_name, open_registry
from orchestrator.cli.terminal import results_console
from orchestrator.registry.champion import roll_back


def run(arguments: argparse.Namespace) -> int:
    """Move the alias, and print what came of it; the exit status."""
    check_model_name(arguments.name)
    with open_registry(arguments) as client:
        move = roll_back(client, arguments.name, reason=arguments.reason)
    results_console().say(f"champion of {arguments.name}: {move}")
    return 0

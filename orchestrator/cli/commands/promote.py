"""`ekd promote`: make a version the champion by hand, with a reason."""

import argparse

from orchestrator.cli.registry_client import open_registry
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import MODEL_URI
from orchestrator.registry.champion import move_champion


def run(arguments: argparse.Namespace) -> int:
    """Move the alias, and print what came of it; the exit status."""
    match = MODEL_URI.fullmatch(arguments.model)
    if match is None or match["version"] is None:
        raise ExperimentError(f"{arguments.model}: write it as models:/NAME/VERSION; `ekd models` lists them")
    name, version = match["name"], match["version"]
    with open_registry(arguments) as client:
        move = move_champion(client, name, version, kind="promoted", reason=arguments.reason)
    told = move or f"version {version} is it already; nothing was changed"
    results_console().say(f"champion of {name}: {told}")
    return 0

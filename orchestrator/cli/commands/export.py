"""`ekd export`: a run's student, or a registered one, as a file."""

import argparse
import os
from pathlib import Path

from orchestrator.cli.registry_client import open_registry
from orchestrator.cli.stored_runs import named_storage, run_storage
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.export.formats import Source, export_network, format_of, sidecar_of
from orchestrator.export.source import from_registry, from_run
from orchestrator.tracking import resolve_tracking_uri


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and print what was checked; the exit status."""
    output = Path(arguments.output)
    form = format_of(output, arguments.format)
    for path in () if arguments.overwrite else (output, sidecar_of(output)):
        if os.path.isfile(path):  # False too where the path cannot be one
            what = "is" if path == output else f"{path}, which is written beside it, is"
            raise ExperimentError(
                f"--output {arguments.output!r}: {what} there already; --overwrite replaces both"
            )
    source = _source(arguments)
    exported = export_network(source, form, output)
    console = results_console()
    console.say(f"{source.where}: weights SHA-256 {source.weights_sha256}, as recorded")
    console.say(
        f"{form}: logits of batches of 1, 2 and 7 differ from the network's by at most {exported.worst:.2g}"
    )
    console.say(
        f"{exported.sidecar} names its classes in the order of the logits; docs/serving.md shows more"
    )
    console.say(str(exported.path))
    return 0


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.source.startswith("models:/"):
        with open_registry(arguments) as client:
            return from_registry(
                client, arguments.source, resolve_tracking_uri(arguments.tracking, arguments.storage)
            )
    return from_run(run_storage(named_storage(arguments), arguments.source), trusted=arguments.trust_stored)

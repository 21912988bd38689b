"""`ekd models`, `ekd promote`, `ekd rollback`, `ekd export`: what is registered, and what becomes of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ExperimentError
from orchestrator.experiment.model_uri import MODEL_NAME, MODEL_URI
from orchestrator.pipeline.summary import compact

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from orchestrator.export.formats import Source
    from orchestrator.registry import Move


def add_registry_commands(commands: Any) -> None:
    """The parsers of this module's commands."""
    models = commands.add_parser(
        "models",
        help="registered students, their metrics and aliases",
        description="Every registered version, the newest first, with its metrics and cost, its run, "
        "and why it has, or no longer has, its alias.",
    )
    models.add_argument("name", nargs="?", metavar="NAME", help="of a registered model; default: all")
    _add_registry(models)

    promote = commands.add_parser(
        "promote",
        help="make a version the champion",
        description="Moves the alias `champion` to this version, in one step, and records why.",
    )
    promote.add_argument(
        "model", metavar="models:/NAME/VERSION", help="the version that becomes the champion"
    )
    promote.add_argument("--reason", required=True, help="what the next person should know")
    _add_registry(promote)

    rollback = commands.add_parser(
        "rollback",
        help="make the previous champion the champion again",
        description="Moves the alias `champion` back to the version that had it before, and records why. "
        "Again: one further back, to the first.",
    )
    rollback.add_argument("name", metavar="NAME", help="of the registered model")
    rollback.add_argument("--reason", required=True, help="what the next person should know")
    _add_registry(rollback)

    export = commands.add_parser(
        "export",
        help="the averaged student as a pt2, ONNX or state-dict file",
        description="Writes the student; checks its weights against the recorded SHA-256, and the file's "
        "logits against the network's. The last line on stdout is the file.",
    )
    export.add_argument(
        "source", metavar="RUN_ID|models:/...", help="models:/NAME/VERSION or models:/NAME@ALIAS"
    )
    export.add_argument(
        "--format",
        choices=("pt2", "onnx", "state-dict"),
        help="default: by PATH, onnx for .onnx, state-dict for .safetensors, else pt2 (torch.export)",
    )
    export.add_argument("--output", metavar="PATH", required=True, help="the file to write")
    export.add_argument("--endpoint-url", metavar="URL", help="of an S3-compatible store")
    _add_registry(export)


def models(arguments: argparse.Namespace) -> int:
    """`ekd models`: what is registered."""
    from rich.table import Table

    from orchestrator.cli.terminal import results_console
    from orchestrator.registry import list_versions

    if arguments.name is not None and MODEL_NAME.fullmatch(arguments.name) is None:
        raise ExperimentError(f"{arguments.name!r} is not the name of a registered student; see `ekd models`")
    with _registry(arguments) as client:
        versions = list_versions(client, arguments.name)
    if not versions:
        raise ExperimentError(
            f"no version of {arguments.name} is registered; `ekd models` lists what is"
            if arguments.name
            else "no student is registered here yet; `ekd run EXPERIMENT` registers one"
        )
    console = results_console(at_least=80)
    for name, group in groupby(versions, key=lambda listed: listed.name):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("\nversion", justify="right", no_wrap=True)
        table.add_column("\nalias", overflow="fold")
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        listed = list(group)
        for each in listed:
            shown = [
                show(each.metrics[key]) if key in each.metrics else "" for key, show in _HEADINGS.values()
            ]
            style = "bold" if "champion" in each.aliases else None
            table.add_row(each.version, ", ".join(each.aliases), *shown, style=style)
        console.print(f"models:/{name}", soft_wrap=True)
        console.print(table)
        for each in listed:
            console.print(str(each), soft_wrap=True)
        console.print()
    return 0


_HEADINGS: dict[str, tuple[str, Callable[[float], str]]] = {
    "val.\nacc. %": ("validation.accuracy", lambda value: f"{100 * value:.2f}"),
    "val.\nNLL": ("validation.nll", "{:.4f}".format),
    "test\nacc. %": ("test.accuracy", lambda value: f"{100 * value:.2f}"),
    "test\nNLL": ("test.nll", "{:.4f}".format),
    "test\nECE": ("test.ece", "{:.4f}".format),
    "\nMACs": ("macs", compact),
}


def promote(arguments: argparse.Namespace) -> int:
    """`ekd promote`: by hand, with a reason."""
    from orchestrator.registry import move_champion

    match = MODEL_URI.fullmatch(arguments.model)
    if match is None or match["version"] is None:
        raise ExperimentError(f"{arguments.model}: write it as models:/NAME/VERSION; `ekd models` lists them")
    name, version = match["name"], match["version"]
    with _registry(arguments) as client:
        move = move_champion(client, name, version, kind="promoted", reason=arguments.reason)
        return _say_moved(client, name, move, f"version {version} is it already; nothing was changed")


def rollback(arguments: argparse.Namespace) -> int:
    """`ekd rollback`: to the champion before."""
    from orchestrator.registry import roll_back

    if MODEL_NAME.fullmatch(arguments.name) is None:
        raise ExperimentError(f"{arguments.name!r} is not the name of a registered student; see `ekd models`")
    with _registry(arguments) as client:
        move = roll_back(client, arguments.name, reason=arguments.reason)
        return _say_moved(client, arguments.name, move, "somebody else rolled back at the same moment")


def _say_moved(client: MlflowClient, name: str, move: Move | None, otherwise: str) -> int:
    """Say what came of a move; 1 where somebody else moved the alias at the same moment."""
    from orchestrator.registry import champion_of

    print(f"champion of {name}: {move or otherwise}")
    champion = champion_of(client, name)
    if move is None or champion == move.after:
        return 0
    print(f"ekd: somebody else has since made version {champion} the champion of {name}", file=sys.stderr)
    return 1


def export(arguments: argparse.Namespace) -> int:
    """`ekd export`: a run's student, or a registered one, as a file."""
    from pathlib import Path

    from ekd_train.persistence.checkpoint import DamagedCheckpoint
    from orchestrator.export.formats import export_network, format_of
    from orchestrator.registry import ExportError

    output = Path(arguments.output)
    form = format_of(output, arguments.format)
    try:
        source = _export_source(arguments)
        exported = export_network(source, form, output)
    except (ExportError, DamagedCheckpoint, OSError) as error:
        print(f"ekd: {error}", file=sys.stderr)
        return 1
    print(f"{source.where}: weights SHA-256 {source.weights_sha256}, as recorded")
    print(f"logits of batches of 1, 2 and 7 differ from the network's by at most {exported.worst:.2g}")
    if exported.lines:
        print(f"to load it, as was done for that comparison:\n\n{exported.lines}")
    print(exported.path)
    return 0


def _export_source(arguments: argparse.Namespace) -> Source:
    from orchestrator.export.source import from_registry, from_run

    if arguments.source.startswith("models:/"):
        from orchestrator.tracking import resolve_tracking_uri

        with _registry(arguments) as client:
            return from_registry(
                client, arguments.source, resolve_tracking_uri(arguments.tracking, arguments.storage)
            )
    from orchestrator.cli.commands import named_storage, run_storage, storage_errors

    with storage_errors():
        storage = run_storage(named_storage(arguments.storage, arguments.endpoint_url), arguments.source)
        return from_run(storage)


@contextmanager
def _registry(arguments: argparse.Namespace) -> Iterator[MlflowClient]:
    """A client of the registry; whatever is wrong with it becomes an `ExperimentError`.

    An `ExportError` stays one: the registry answered, but what it has is not what was registered.
    """
    from orchestrator.registry import ExportError, NoSuchVersion
    from orchestrator.tracking import TrackingError, check_tracking, resolve_tracking_uri
    from orchestrator.tracking.address import sqlite_file
    from orchestrator.tracking.connection import connect, explained

    uri = resolve_tracking_uri(arguments.tracking, arguments.storage)
    file = sqlite_file(uri)
    if file is not None and not os.path.isfile(file):  # False too where the path cannot be one
        raise ExperimentError(
            f"{file}: there is no registry here; --tracking URI or --storage URI says where it is"
        )
    wrong: Exception
    try:
        if file is None:
            check_tracking(uri)
        client = connect(uri)
        with explained(uri, "use the model registry of"):
            try:
                yield client
                return
            except (ExportError, NoSuchVersion, ValueError) as error:
                wrong = error
    except TrackingError as error:
        print(f"ekd: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    raise wrong if isinstance(wrong, ExportError) else ExperimentError(str(wrong))


def _add_registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking", metavar="URI", help="default: MLFLOW_TRACKING_URI, else beside --storage"
    )
    parser.add_argument("--storage", metavar="URI", default="ekd-runs", help="default: ./ekd-runs")

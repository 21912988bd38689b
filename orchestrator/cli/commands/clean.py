"""`ekd clean`: remove what finished runs no longer need."""

import argparse

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.registry_client import open_registry
from orchestrator.cli.stored_runs import named_storage, own_tracking, run_storage
from orchestrator.cli.terminal import results_console
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.infrastructure import SHARED_NETWORKS, SHARED_PACKS
from orchestrator.experiment.redaction import one_line
from orchestrator.pipeline.cleanup import clean_run, finished_runs, remove_packs, remove_run
from orchestrator.pipeline.manifest import NewerDocument, read_experiment, read_manifest
from orchestrator.pipeline.manifest_content import Registered
from orchestrator.pipeline.networks import remove_unused
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.registry.champion import NoSuchVersion, champion_of, version_of
from orchestrator.storage import Storage


def run(arguments: argparse.Namespace) -> int:
    """Remove it, or say what would be, and print how much that is; the exit status."""
    dry = arguments.dry_run
    gone = "would be removed" if dry else "removed"
    if arguments.everything and arguments.run_id is None:
        raise ExperimentError("--everything removes one run: name it")
    if arguments.registered_too and not arguments.everything:
        raise ExperimentError("--registered-too is of --everything, without which no version loses its run")
    storage, console = named_storage(arguments), results_console()
    with nothing_started():
        run_ids = finished_runs(storage) if arguments.run_id is None else [arguments.run_id]
    if not run_ids:
        console.say(f"no finished runs in {storage.uri()}; `ekd status` lists all runs")
    for run_id in run_ids:
        stored = run_storage(storage, run_id)
        with nothing_started():
            if not arguments.everything:
                count = clean_run(stored, run_id, dry=dry)
            else:
                _check_unregistered(stored, arguments)
                say = PlainConsole(stderr=True).say
                count = remove_run(storage, stored, run_id, say, dry=dry)
        console.say(f"{stored.uri()}: {count} objects {gone}")
    with nothing_started():
        gone_too = arguments.run_id if arguments.everything else ""
        unused = remove_unused(storage, dry_without=gone_too if dry else None)
        packs = remove_packs(storage, dry=dry)
    if unused:
        console.say(f"{storage.uri(SHARED_NETWORKS)}: {unused} networks {gone} that no run refers to")
    if packs:
        console.say(f"{storage.uri(SHARED_PACKS)}: {packs} packs of images {gone}; runs make them again")
    return 0


def _check_unregistered(run: Storage, arguments: argparse.Namespace) -> None:
    """Raise `ExperimentError` where the run has registered a version, unless the user says to remove it."""
    if arguments.registered_too:
        return
    try:
        manifest = read_manifest(run)
    except NewerDocument:
        raise
    except ExperimentError:  # damaged: nothing says that it has, and it can be removed all the same
        return
    if manifest is None or not manifest.done("register"):
        return
    version = manifest.registered
    raise ExperimentError(
        f"run {arguments.run_id} has registered {version.uri}, {_now(version, run, arguments)}; with the run "
        "its networks, predictions and report would go, which nothing can make again from the model alone: "
        "--registered-too removes it all the same, and leaves the model in MLflow"
    )


def _now(version: Registered, run: Storage, arguments: argparse.Namespace) -> str:
    """What the registry says of a version today, in words; or why it cannot be asked."""
    try:
        begun = read_experiment(run)
        arguments.tracking = own_tracking(begun.tracking.uri if begun is not None else None, arguments)
        with open_registry(arguments) as client:
            version_of(client, version.name, version.version)
            is_champion = champion_of(client, version.name) == version.version
    except NoSuchVersion:
        return "which is not in the registry any more"
    except (EkdError, OSError, ValueError) as error:
        return f"of which the registry cannot be asked ({one_line(error)})"
    return "which is champion" if is_champion else "which is in the registry"

"""Runs that are in a storage already, as commands name them."""

import argparse
import shlex
from collections.abc import Collection

from ekd_train.data.hub import hub_name
from ekd_train.own_code import allow
from ekd_train.settings import DataSettings
from orchestrator.cli.checks import nothing_started
from orchestrator.errors import ExperimentError
from orchestrator.experiment.hosts import host_of, is_this_machine
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.manifest import EXPERIMENT, MANIFEST
from orchestrator.pipeline.status import stored_runs
from orchestrator.planning.preflight import PATIENCE_S, check_run_id
from orchestrator.storage import Storage, open_storage
from orchestrator.tracking import redacted, resolve_tracking_uri
from orchestrator.tracking.address import local_folder, sqlite_file
from orchestrator.tracking.preflight import has_credentials


def named_storage(arguments: argparse.Namespace) -> Storage:
    """The storage that `--storage` and `--endpoint-url` name; raises `ExperimentError`."""
    with nothing_started():
        return open_storage(arguments.storage, arguments.endpoint_url, patience_s=PATIENCE_S)


def run_storage(storage: Storage, run_id: str) -> Storage:
    """The storage of a run that exists; raises `ExperimentError`."""
    run = storage.child(check_run_id(run_id))
    with nothing_started():
        exists = run.exists(MANIFEST)
    if not exists:
        raise ExperimentError(
            f"{run.uri()}: there is no such run; `ekd status` lists those of a place, which --storage names"
        )
    return run


def own_tracking(stored: str | None, arguments: argparse.Namespace) -> str | None:
    """The `tracking.uri` for a run that says `stored`; None: the environment's, or beside the storage.

    Whoever writes the storage writes there too: so it is used where the user says so or would have named the
    same, or where it can lead no credential to others. Raises `ExperimentError`, which names it.
    """
    if arguments.tracking or not stored or arguments.trust_stored or _harmless(stored, arguments.storage):
        return arguments.tracking or stored
    shown = redacted(stored)
    raise ExperimentError(
        f"{arguments.run_id}/{EXPERIMENT} says tracking.uri {shown}; a stored address is used if you say so: "
        f"add --tracking {shlex.quote(shown)}, or --trust-stored"
    )


def _harmless(stored: str, storage: str) -> bool:
    uri, default = resolve_tracking_uri(stored, storage), resolve_tracking_uri(None, storage)
    file, root = sqlite_file(uri), local_folder(storage)
    if uri == default or file is None:
        return uri == default or (is_this_machine(host_of(uri)) and not has_credentials(uri))
    return root is not None and file.resolve().is_relative_to(root.resolve())


def with_own_places(
    stored: Experiment, arguments: argparse.Namespace, named: Collection[str] = ()
) -> Experiment:
    """A stored experiment in the storage that the arguments name, for a command that asks no cluster.

    With `--trust-stored` the modules that it names may run here, if their source is the same, and its data
    are fetched from wherever it says; else, and where no `named` key of the user's says so, a place that
    would be sent credentials is an `ExperimentError`, and nothing is downloaded.
    """
    if arguments.trust_stored:
        allow(stored.code)
    else:
        _refuse_elsewhere(stored.data, arguments, named)
        # The run had its data: nothing is fetched, nor written, where a stored setting says.
        stored = stored.model_copy(update={"data": stored.data.model_copy(update={"download": False})})
    here = {"uri": arguments.storage, "endpoint_url": arguments.endpoint_url}
    return stored.model_copy(
        update={
            "storage": stored.storage.model_copy(update=here),
            "cluster": stored.cluster.model_copy(update={"address": "local"}),
        }
    )


def _refuse_elsewhere(data: DataSettings, arguments: argparse.Namespace, named: Collection[str]) -> None:
    places = {
        "data.root": data.root if (data.root or "").startswith("s3://") else None,
        "data.path": hub_name(data),
    }
    below = f"{arguments.storage.rstrip('/')}/"
    for key, place in places.items():
        if place and key not in named and not f"{place}/".startswith(below):
            raise ExperimentError(
                f"{arguments.run_id}/{EXPERIMENT} says {key} {redacted(place)}; a stored address is used if "
                "you say so: add --trust-stored"
            )


def run_or_newest(arguments: argparse.Namespace) -> Storage:
    """The storage of the run that the arguments name; of the one that changed last if they name none.

    That one is named in them from then on. Raises `ExperimentError`.
    """
    storage = named_storage(arguments)
    if arguments.run_id is None:
        with nothing_started():
            runs = stored_runs(storage)
        if not runs:
            raise ExperimentError(f"no runs in {storage.uri()}; --storage names another place")
        arguments.run_id = runs[0]
    return run_storage(storage, arguments.run_id)

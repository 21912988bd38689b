"""What of a run is kept: nothing that it can do without is, once `ekd clean` was called."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from ekd_train.data.packed.index import INDEX
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import SHARED_PACKS
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.lease import Lease, LeaseHeld
from orchestrator.pipeline.manifest import MANIFEST, read_experiment, read_manifest
from orchestrator.pipeline.status import RunState, state_of
from orchestrator.storage import Storage
from orchestrator.storage.vendor_settings import RAY

DISPENSABLE = ("checkpoints", RAY)
"""Folders of a finished run that nothing reads any more; Ray's holds the state of its worker groups."""


def finished_runs(storage: Storage) -> list[str]:
    """The ids of the runs below `storage` that are done; what cannot be read is not known to be."""
    found = []
    for run_id in _run_ids(storage):
        with suppress(ExperimentError):
            if _state(storage.child(run_id)) == "done":
                found.append(run_id)
    return found


def clean_run(run: Storage, run_id: str, *, dry: bool = False) -> int:
    """Remove the dispensable folders of a finished run; how many objects. Raises `ExperimentError`.

    `dry`: count, and remove nothing.
    """
    found = _state(run)
    if found != "done":
        raise ExperimentError(f"run {run_id} is {found}: its checkpoints are what it would continue from")
    there = run.list()  # without what is behind links: `delete_prefix` removes those, and nothing beyond
    for folder in () if dry else DISPENSABLE:
        run.delete_prefix(folder)
    return sum(key.startswith(tuple(f"{folder}/" for folder in DISPENSABLE)) for key in there)


def remove_packs(storage: Storage, *, dry: bool = False) -> int:
    """Remove the packed images that hosts of other runs fetched; how many packs.

    None while a run is going on, a host of which may still fetch them, or one cannot be read. A later run
    puts them there again.
    """
    for run_id in _run_ids(storage):
        try:
            if _state(storage.child(run_id)) == "running":
                return 0
        except ExperimentError:  # of a newer version, perhaps
            return 0
    shared = storage.child(SHARED_PACKS)
    packs = {key.partition("/")[0] for key in shared.list() if "/" in key}
    for name in () if dry else packs:
        shared.delete(f"{name}/{INDEX}")  # first: it says that the others are there
        shared.delete_prefix(name)
    return len(packs)


def remove_run(
    storage: Storage, run: Storage, run_id: str, say: Callable[[str], None], *, dry: bool = False
) -> int:
    """Remove all of a run, whatever its manifest says; how many objects. `dry`: count, and remove nothing.

    Raises `ExperimentError` while a driver is at it. `say` is called with a line if a driver that may have
    ended has to be waited for.
    """
    there = len(run.list())
    try:
        if dry:
            with suppress(ExperimentError):  # a damaged one is removed too
                if _state(run) == "running":
                    raise LeaseHeld("it is being run")
            return there
        # The lease itself, not its age: hosts' clocks differ.
        with Lease(run).acquire(say):
            storage.delete_prefix(run_id)
    except LeaseHeld as error:
        raise ExperimentError(f"run {run_id}: {error}") from None
    return there


def _run_ids(storage: Storage) -> list[str]:
    keys = storage.list()
    return [key.split("/")[0] for key in keys if key.count("/") == 1 and key.endswith(f"/{MANIFEST}")]


def _state(run: Storage) -> RunState | Literal["unknown"]:
    manifest = read_manifest(run)
    return "unknown" if manifest is None else state_of(run, manifest)


def stored_experiment(run: Storage, run_id: str) -> Experiment:
    """The experiment that a run which is trained and measured was begun with. Raises `ExperimentError`."""
    manifest, begun = read_manifest(run), read_experiment(run)
    if manifest is None or not manifest.done("evaluate") or begun is None:
        raise ExperimentError(
            f"run {run_id} is not trained and measured yet; continue it with the command that "
            f"started it; `ekd status {run_id}` says where it is"
        )
    return begun

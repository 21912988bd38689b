"""The trained networks of a run, which it shares with all runs of its storage."""

import re

from ekd_train.data.description import DataDescription
from ekd_train.persistence.checkpoint import DamagedCheckpoint, load_typed
from ekd_train.persistence.networks import Networks
from ekd_train.persistence.records import NetworkRecord
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import SHARED_NETWORKS
from orchestrator.experiment.schema import Experiment
from orchestrator.storage import MissingKey, Storage

REFERENCE = re.compile(r"[^/]+/(networks/[^/]+|trials/[^/]+/seed-\d+/network)\.json")
"""Keys of the records by which runs, and trials of a search that goes on, refer to shared networks."""
SHARED = re.compile(r"[0-9a-f]{64}\.(json|safetensors)")


def networks_of(run: Storage, run_id: str, experiment: Experiment, data: DataDescription) -> Networks:
    """Those of the run in `run`, a folder of the storage that runs are kept in."""
    return Networks(run, run.top.child(SHARED_NETWORKS), data, run_id, experiment.cluster.workers_per_run)


def remove_unused(storage: Storage, *, dry_without: str | None = None) -> int:
    """Remove the shared networks that no run in `storage` refers to; how many.

    `dry_without`: remove none, and count as if the run of that id ("": none) were gone.

    What a run stores meanwhile stays. One that begins in this very moment may miss what only it refers to:
    it says so, and its next start trains that again. Raises `ExperimentError` if a reference is damaged.
    """
    shared = storage.child(SHARED_NETWORKS)
    there = [key for key in shared.list() if SHARED.fullmatch(key)]  # before the references are read
    used = {
        record.sha256
        for key in storage.list()
        if REFERENCE.fullmatch(key)
        and not (dry_without and key.startswith(f"{dry_without}/"))
        and (record := _read(storage, key))
    }
    unused = [key for key in there if key.endswith(".safetensors") and key.partition(".")[0] not in used]
    if dry_without is None:
        for key in there:
            if key.endswith(".json") and _hash_in(shared, key) not in used:
                shared.delete(key)
        for key in unused:
            shared.delete(key)
    return len(unused)


def _read(storage: Storage, key: str) -> NetworkRecord | None:
    try:
        return load_typed(storage, key, NetworkRecord)
    except MissingKey:  # the run is being removed
        return None
    except DamagedCheckpoint as error:
        raise ExperimentError(
            f"{storage.uri()}: {error}; no shared network is removed while it is not known what that run "
            "needs: continue it, or remove it with --everything"
        ) from None


def _hash_in(shared: Storage, key: str) -> str | None:
    try:
        return load_typed(shared, key, NetworkRecord).sha256
    except (DamagedCheckpoint, MissingKey):
        return None

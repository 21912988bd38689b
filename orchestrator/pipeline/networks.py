"""The trained networks of a run, which it shares with all runs of its storage."""

from ekd_train.data.description import DataDescription
from ekd_train.persistence.networks import Networks
from orchestrator.experiment.infrastructure import SHARED_NETWORKS
from orchestrator.experiment.schema import Experiment
from orchestrator.storage import Storage


def networks_of(run: Storage, run_id: str, experiment: Experiment, data: DataDescription) -> Networks:
    """Those of the run in `run`, a folder of the storage that runs are kept in."""
    return Networks(run, run.top.child(SHARED_NETWORKS), data, run_id, experiment.cluster.workers_per_run)

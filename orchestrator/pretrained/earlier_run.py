"""Networks of earlier runs in the same storage."""

from ekd_train.models.build_network import averaged, build_plain
from ekd_train.persistence.checkpoint import load_typed
from ekd_train.persistence.networks import AVERAGED, load_average, load_network_record
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import Architecture, Pretrained
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import RUN_ID
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.manifest import read_run
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.order import training_runs
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.storage import open_storage


def read(name: str, experiment: Experiment, stated: str | None) -> PretrainedNetwork:
    """The network of `RUN_ID/NAME`: `teacher-0`, `control`, ...; of `student` and `averaged` the average.

    Raises `ExperimentError`: no such run or network; `DamagedCheckpoint`; `StorageError`.
    """
    run_id, _, which = name.partition("/")
    if not RUN_ID.fullmatch(run_id) or not which:
        raise ExperimentError("write it as run:RUN_ID/NAME, such as run:digits-0123456789/teacher-0")
    root = open_storage(experiment.storage.uri, experiment.storage.endpoint_url)
    storage = root.child(run_id)
    found = read_run(storage, "prepare")
    if found is None:
        raise ExperimentError(f"there is no such run in {root.uri()}; `ekd status` lists them")
    manifest, earlier = found
    data = manifest.prepared.data
    runs = {run.name: run for run in training_runs(earlier)}
    which = which.replace("teacher/", "teacher-")
    try:
        if which in ("averaged", "student"):
            architecture = earlier.student.architecture
            network = load_average(storage, build_plain(architecture, data))
            record = load_typed(storage, f"{AVERAGED}.json", NetworkRecord)
        elif which in runs:
            architecture = runs[which].architecture
            network = averaged(networks_of(storage, run_id, earlier, data).load(runs[which]))
            record = load_network_record(storage, which)
        else:
            raise ExperimentError(f"the run has no network {which!r}, but {', '.join([*runs, 'averaged'])}")
    except LookupError:
        raise ExperimentError(f"the run has no finished network {which} yet") from None
    plain = architecture.model_copy(update=dict.fromkeys(Pretrained.model_fields))
    return PretrainedNetwork(
        network.state_dict(),
        record.sha256,
        _by_name(plain),
        mean=architecture.mean or data.mean,
        std=architecture.std or data.std,
        image_size=architecture.image_size or data.image_shape[1],
        class_names=data.class_names,
    )


def _by_name(architecture: Architecture) -> Architecture | None:
    """Unless it is somebody's own module: of those, what is stored names none to import."""
    return None if ":" in architecture.name else architecture

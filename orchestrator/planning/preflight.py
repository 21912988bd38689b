"""Everything that can be found wrong before anything is started."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ekd_train.data import DataDescription, Dataset, describe
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import RUN_ID, SHARED_NETWORKS, SHARED_PACKS, Cluster
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.manifest import check_continuable, id_for_images
from orchestrator.planning.capacity import Capacity, why_never
from orchestrator.planning.data import load_here, room
from orchestrator.pretrained.given import Given
from orchestrator.runtime.address import local_capacity, wanted_address
from orchestrator.runtime.leftovers import scratch
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.preflight import check_room, check_storage
from orchestrator.tracking import check_tracking, resolve_tracking_uri

if TYPE_CHECKING:
    from orchestrator.pretrained.check import Look

PATIENCE_S = 10.0
"""How long a check waits for a store that does not answer."""


@dataclass(frozen=True)
class Checked:
    """An experiment that can be started, and what the checks have opened on the way."""

    experiment: Experiment
    run_id: str
    storage: Storage
    """Of this run: `<storage.uri>/<run id>`."""
    tracking_uri: str
    dataset: Dataset
    description: DataDescription
    capacity: Capacity
    """Of the cluster that it will run on, as it was when asked."""
    given: Given = Given()
    """What of its networks exists already."""
    notice: str | None = None
    """Why `run_id` is another than that of the same settings before: the images have changed."""
    memory: tuple[str, ...] = ()
    """What `memory_lines` says of its GPUs; nothing of CPUs."""


def check(
    experiment: Experiment,
    run_id: str | Callable[[Experiment], str] | None = None,
    *,
    capacity: Capacity | None = None,
    further: Callable[[DataDescription], None] | None = None,
    pack: bool = True,
    begun: bool = False,
) -> Checked:
    """Check everything.

    Args:
        experiment: what is to run.
        run_id: or what makes it of the experiment, once that says which weights its networks start from;
            None: the experiment's default one. Unless it is given, other images than its run's make another.
        capacity: what `ask_capacity` said, if it was asked before.
        further: one more check of networks, given the data's description.
        pack: images that would not fit into memory; else they are only described, and neither the run of
            that id nor what its given teachers are worth is looked at.
        begun: the run has begun, and keeps the weights that its networks start from: where they came from is
            not asked again.

    Raises `ExperimentError`, `ValueError`, `DataError`, `StorageError` or `TrackingError`, each with
    one line that says what is wrong and what to do.
    """
    experiment, look = (experiment, None) if begun else _read_given(experiment, run_id)
    own = not isinstance(run_id, str)
    if not isinstance(run_id, str):
        run_id = experiment.default_run_id() if run_id is None else run_id(experiment)
    run_id, notice = check_run_id(run_id, "--run-id"), None
    root = open_storage(experiment.storage.uri, experiment.storage.endpoint_url)
    capacity = ask_capacity(experiment.cluster) if capacity is None else capacity
    check_capacity(experiment, capacity)
    dataset = load_here(experiment.data, experiment.storage.endpoint_url, room(experiment.cluster), make=pack)
    to_be_packed = dataset.packed is not None and not dataset.packed.made
    description = describe(dataset)
    check_images(experiment, description)
    tracking_uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)

    with nothing_left(root.local_folder):
        # A check should not wait as long for a store that is away as a run does.
        impatient = open_storage(
            experiment.storage.uri, experiment.storage.endpoint_url, patience_s=PATIENCE_S
        )
        check_storage(impatient)
        if own and not to_be_packed:
            run_id, notice = id_for_images(impatient, run_id, description)
        if not to_be_packed:
            check_continuable(impatient.child(run_id), experiment, run_id, description)
        check_tracking(tracking_uri)
        # It imports torch, 2 s that nobody waits for whose input is wrong.
        from orchestrator.planning import memory, networks

        networks.check_networks(experiment, description)
        # A second or two, which GPUs are worth: torch says what does not fit after minutes, and less clearly.
        needed: list[str] = []
        if experiment.cluster.gpus_per_worker:
            needed = memory.memory_lines(experiment, description, capacity, packed=dataset.packed is not None)
        given = look(dataset, description) if look is not None and not to_be_packed else Given()
        if further is not None:
            further(description)
        check_room(impatient, networks.bytes_needed(experiment, description))
    return Checked(
        experiment,
        run_id,
        root.child(run_id),
        tracking_uri,
        dataset,
        description,
        capacity,
        given,
        notice,
        tuple(needed),
    )


def _read_given(
    experiment: Experiment, run_id: str | Callable[[Experiment], str] | None
) -> "tuple[Experiment, Look | None]":
    if not any(holder.weights for holder in (*experiment.teachers, experiment.student.architecture)):
        return experiment, None
    from orchestrator.pretrained.check import read_given  # torch again

    return read_given(experiment, run_id)


def ask_capacity(cluster: Cluster) -> Capacity:
    """What the cluster has: a running one is asked, this machine's is known. Raises `ExperimentError`."""
    if wanted_address(cluster) is None:
        return local_capacity()
    # It imports Ray, a second that nobody waits for who uses this machine alone and only reads.
    from orchestrator.runtime.ray_session import LaunchError, start_ray, stop_ray

    with log_of_ray() as log_file:
        try:
            return start_ray(cluster, log_file)
        except LaunchError as error:
            raise ExperimentError(one_line(error)) from error
        finally:
            stop_ray()


@contextmanager
def log_of_ray() -> Iterator[Path]:
    """Where Ray's messages go while it is only asked; kept after an error, which names it."""
    with scratch("ekd-ray-", keep="ray.log") as folder:
        yield folder / "ray.log"


@contextmanager
def nothing_left(folder: Path | None) -> Iterator[None]:
    """Remove the folders that a check had to create: what has not begun leaves nothing behind."""
    if folder is None:
        yield
        return
    # os.path's answer for a name that is too long is no; what is wrong with it, the check says.
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        yield
    finally:
        for path in new:
            with suppress(OSError):  # another run has begun to use it
                path.rmdir()


def check_run_id(run_id: str, where: str = "run id") -> str:
    """`run_id`, if it can be a folder's and a key's name; raises `ExperimentError`."""
    if not RUN_ID.fullmatch(run_id):
        raise ExperimentError(
            f"{where} {run_id!r}: use letters, digits, '.', '_', '-', at most 100, a letter or digit first"
        )
    if run_id in (SHARED_NETWORKS, SHARED_PACKS):
        raise ExperimentError(f"{where} {run_id}: what runs share is kept there; choose another")
    return run_id


def check_capacity(experiment: Experiment, capacity: Capacity) -> None:
    """Raise `ExperimentError` if the cluster can never run the experiment."""
    if reason := why_never(experiment.cluster, capacity):
        raise ExperimentError(reason)


def check_images(experiment: Experiment, description: DataDescription) -> None:
    """Raise `ExperimentError` if the settings do not fit the images: a batch too large, a crop too wide."""
    trainings = {"student": experiment.student.training}
    trainings |= {f"teachers.{i}": g.training for i, g in enumerate(experiment.teachers) if not g.given}
    for key, training in trainings.items():
        if training.speed.precision == "float16" and not experiment.cluster.gpus_per_worker:
            raise ExperimentError(
                f"{key}.training.speed.precision: float16 is for GPUs, and cluster.gpus_per_worker is 0; "
                "use auto"
            )
        if training.batch_size > description.train:
            raise ExperimentError(
                f"{key}.training.batch_size is {training.batch_size} but there are {description.train} "
                "training images; lower it, or use more data"
            )
    padding, size = experiment.data.augmentation.crop_padding, min(description.image_shape[1:])
    if padding >= size:
        raise ExperimentError(
            f"data.augmentation.crop_padding is {padding} but images are {size} pixels wide; a shift by that "
            "much leaves nothing of them, so lower it"
        )

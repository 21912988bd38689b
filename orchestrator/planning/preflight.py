"""Everything that can be found wrong before anything is started."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from ekd_train.data import Dataset, describe, load_dataset
from ekd_train.settings import TrainingRun
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import RUN_ID, Cluster
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.manifest import MANIFEST, check_continuable
from orchestrator.pipeline.order import training_runs
from orchestrator.planning.capacity import Capacity, why_never
from orchestrator.runtime.address import local_capacity, wanted_address
from orchestrator.runtime.ray_session import LaunchError, start_ray, stop_ray
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.data_source import local_data
from orchestrator.storage.preflight import check as check_storage
from orchestrator.storage.preflight import check_room
from orchestrator.tracking import check_tracking, resolve_tracking_uri

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
    description: dict[str, Any]
    capacity: Capacity
    """Of the cluster that it will run on, as it was when asked."""


def check(
    experiment: Experiment,
    run_id: str | None = None,
    *,
    capacity: Capacity | None = None,
    meanwhile: Callable[[Callable[[], None]], None] | None = None,
    further: Callable[[dict[str, Any]], None] | None = None,
) -> Checked:
    """Check everything.

    Args:
        experiment: what is to run.
        run_id: None: the experiment's default one.
        capacity: what `ask_capacity` said, if it was asked before.
        meanwhile: for a run that is not there yet: calls the checks that take seconds, once
            everything else is right, and may do something beside them.
        further: one more check of networks, given the data's description.

    Raises `ExperimentError`, `ValueError`, `DataError`, `StorageError` or `TrackingError`, each with
    one line that says what is wrong and what to do.
    """
    run_id = check_run_id(experiment.default_run_id() if run_id is None else run_id, "--run-id")
    root = open_storage(experiment.storage.uri, experiment.storage.endpoint_url)
    capacity = ask_capacity(experiment.cluster) if capacity is None else capacity
    check_capacity(experiment, capacity)
    dataset = load_dataset(local_data(experiment.data, experiment.storage.endpoint_url))
    description = describe(dataset)
    check_images(experiment, description)
    tracking_uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)

    def check_networks_and_their_room() -> None:
        check_networks(experiment, description)
        if further is not None:
            further(description)
        check_room(impatient, bytes_needed(experiment, description))

    with nothing_left(root.local_folder):
        # A check should not wait as long for a store that is away as a run does.
        impatient = open_storage(
            experiment.storage.uri, experiment.storage.endpoint_url, patience_s=PATIENCE_S
        )
        for step in check_storage(impatient):
            if step.error is not None:
                raise step.error
        check_continuable(impatient.child(run_id), experiment, run_id, description["fingerprint"])
        check_tracking(tracking_uri)
        if meanwhile is None or impatient.child(run_id).exists(MANIFEST):
            check_networks_and_their_room()
        else:
            meanwhile(check_networks_and_their_room)
    return Checked(experiment, run_id, root.child(run_id), tracking_uri, dataset, description, capacity)


def ask_capacity(cluster: Cluster) -> Capacity:
    """What the cluster has: a running one is asked, this machine's is known. Raises `ExperimentError`."""
    if wanted_address(cluster) is None:
        return local_capacity()
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
    folder = Path(mkdtemp(prefix="ekd-"))
    try:
        yield folder / "ray.log"
    except BaseException:
        with suppress(OSError):  # there is a log
            folder.rmdir()
        raise
    rmtree(folder, ignore_errors=True)


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
    return run_id


def check_capacity(experiment: Experiment, capacity: Capacity) -> None:
    """Raise `ExperimentError` if the cluster can never run the experiment."""
    if reason := why_never(experiment.cluster, capacity):
        raise ExperimentError(reason)


def check_images(experiment: Experiment, description: dict[str, Any]) -> None:
    """Raise `ExperimentError` if the settings do not fit the images: a batch too large, a crop too wide."""
    trainings = {"student": experiment.student.training}
    trainings |= {f"teachers.{i}": group.training for i, group in enumerate(experiment.teachers)}
    for key, training in trainings.items():
        if training.batch_size > description["train"]:
            raise ExperimentError(
                f"{key}.training.batch_size is {training.batch_size} but there are {description['train']} "
                "training images; lower it, or use more data"
            )
    padding, size = experiment.data.augmentation.crop_padding, min(description["image_shape"][1:])
    if padding >= size:
        raise ExperimentError(
            f"data.augmentation.crop_padding is {padding} but images are {size} pixels wide; a shift by that "
            "much leaves nothing of them, so lower it"
        )


def check_networks(experiment: Experiment, description: dict[str, Any]) -> None:
    """Build and apply every network once, on paper; raises `ExperimentError` for one that cannot be."""
    import torch

    from ekd_train.models.stages import stages
    from ekd_train.objectives import build_objective, objective_for

    shape, classes = description["image_shape"], description["num_classes"]
    for where, run in distinct_runs(experiment).items():
        try:
            network = network_on_paper(run, description)
            logits = network.train()(torch.zeros(2, *shape, device="meta"))
            if not isinstance(logits, torch.Tensor) or logits.shape[-2:] != (2, classes):
                raise ValueError(f"{run.architecture.name} does not give logits (b, {classes}) in training")
            if experiment.distillation.ekd.feature > 0 and where.startswith("teachers"):
                stages(network)  # raises if nobody knows where its features are
        except (ValueError, TypeError, RuntimeError, OverflowError, NotImplementedError) as error:
            raise ExperimentError(
                f"{where}: {one_line(error)}; images are {'x'.join(map(str, shape))}, {classes} classes"
            ) from None
    try:
        name = objective_for(experiment.student.method, experiment.distillation.objective)
        build_objective(name, experiment.distillation)
    except ValueError as error:
        raise ExperimentError(f"distillation: {one_line(error)}") from None


def network_on_paper(run: TrainingRun, description: dict[str, Any]) -> Any:
    """The network of `run` on torch's meta device: shapes without values."""
    import torch

    from ekd_train.training.trainee import build_network

    keys = ("num_classes", "image_shape", "mean", "std")
    with torch.device("meta"):
        return build_network(run, **{key: description[key] for key in keys})


def distinct_runs(experiment: Experiment) -> dict[str, TrainingRun]:
    """One training run for each different network, by the experiment key that describes it."""
    teachers = experiment.teacher_runs()
    runs: dict[str, TrainingRun] = {}
    first = 0
    for index, group in enumerate(experiment.teachers):
        runs[
            "teachers.architecture" if len(experiment.teachers) == 1 else f"teachers.{index}.architecture"
        ] = teachers[first]
        first += group.count
    if unpruned := experiment.unpruned_run():
        runs["student.architecture"] = unpruned
    return runs | {"student": experiment.student_run()}


def bytes_needed(experiment: Experiment, description: dict[str, Any]) -> int:
    """About what a run stores at most: checkpoints with momentum, weights, predictions."""
    per_network = [
        sum(p.numel() * p.element_size() for p in network_on_paper(run, description).state_dict().values())
        for run in distinct_runs(experiment).values()
    ]
    networks = len(training_runs(experiment)) + 1  # and the average
    checkpoints = 3 * (experiment.storage.keep_checkpoints + 1)
    images = description["validation"] + description["test"]
    predictions = 4 * images * description["num_classes"] * 2 * networks
    return (networks * (1 + checkpoints)) * max(per_network) + predictions + (64 << 20)


def one_line(error: BaseException) -> str:
    """An exception as one line, without what could be a credential."""
    from orchestrator.tracking import redacted

    return redacted(re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__)

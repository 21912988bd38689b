"""Everything that can be found wrong before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ekd_train.data import Dataset, describe, load_dataset
from ekd_train.settings import TrainingRun
from orchestrator.capacity import Capacity, why_never
from orchestrator.experiment import RUN_ID, Experiment, ExperimentError
from orchestrator.launch import local_capacity, wanted_address
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.preflight import check as check_storage
from orchestrator.tracking import check_tracking, resolve_tracking_uri

SPLITS = ("train", "validation", "test")


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

    def arrays(self) -> dict[str, np.ndarray]:
        """The data set as `train/images`, `train/labels`, ..."""
        return {
            f"{split}/{part}": getattr(getattr(self.dataset, split), part)
            for split in SPLITS
            for part in ("images", "labels")
        }


def check(experiment: Experiment, run_id: str | None = None) -> Checked:
    """Check everything and start nothing.

    Raises `ExperimentError`, `ValueError`, `DataError`, `StorageError` or `TrackingError`, each with
    one line that says what is wrong and what to do.
    """
    run_id = check_run_id(run_id or experiment.default_run_id())
    root = open_storage(experiment.storage.uri, experiment.storage.endpoint_url)
    dataset = load_dataset(experiment.data)
    description = describe(dataset)
    check_batches(experiment, description["train"])
    check_networks(experiment, description)
    if wanted_address(experiment.cluster) is None:
        check_capacity(experiment, local_capacity())
    for step in check_storage(root, needs_bytes=bytes_needed(experiment, description)):
        if step.error is not None:
            raise step.error
    tracking_uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)
    check_tracking(tracking_uri)
    return Checked(experiment, run_id, root.child(run_id), tracking_uri, dataset, description)


def check_run_id(run_id: str) -> str:
    """`run_id`, if it can be a folder's and a key's name; raises `ExperimentError`."""
    if not RUN_ID.fullmatch(run_id):
        raise ExperimentError(
            f"--run-id {run_id!r}: use letters, digits, '.', '_', '-', at most 100, a letter or digit first"
        )
    return run_id


def check_capacity(experiment: Experiment, capacity: Capacity) -> None:
    """Raise `ExperimentError` if the cluster can never run the experiment."""
    if reason := why_never(experiment.cluster, capacity):
        raise ExperimentError(reason)


def check_batches(experiment: Experiment, train_images: int) -> None:
    """Raise `ExperimentError` if a global batch is larger than the training split."""
    trainings = {"student": experiment.student.training}
    trainings |= {f"teachers.{i}": group.training for i, group in enumerate(experiment.teachers)}
    for key, training in trainings.items():
        if training.batch_size > train_images:
            raise ExperimentError(
                f"{key}.training.batch_size is {training.batch_size} but there are {train_images} training "
                "images; lower it, or use more data"
            )


def check_networks(experiment: Experiment, description: dict[str, Any]) -> None:
    """Build every network once, without memory; raises `ExperimentError` if one cannot be built."""
    for where, run in distinct_runs(experiment).items():
        try:
            network_on_paper(run, description)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ExperimentError(f"{where}: {' '.join(str(error).split())}") from None


def network_on_paper(run: TrainingRun, description: dict[str, Any]) -> Any:
    """The network of `run` on torch's meta device: shapes without values."""
    import torch

    from ekd_train.trainee import build_network

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
    return runs | {"student": experiment.student_run()}


def bytes_needed(experiment: Experiment, description: dict[str, Any]) -> int:
    """About what a run stores at most: checkpoints with momentum, weights, predictions."""
    per_network = [
        sum(p.numel() * p.element_size() for p in network_on_paper(run, description).state_dict().values())
        for run in distinct_runs(experiment).values()
    ]
    networks = experiment.teacher_count + 3
    checkpoints = 3 * (experiment.storage.keep_checkpoints + 1)
    images = description["validation"] + description["test"]
    predictions = 4 * images * description["num_classes"] * 2 * networks
    return (networks * (1 + checkpoints)) * max(per_network) + predictions + (64 << 20)


def one_line(error: BaseException) -> str:
    """An exception as one line, without what could be a credential."""
    from orchestrator.tracking import redacted

    return redacted(re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__)

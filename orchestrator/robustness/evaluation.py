"""What `ekd evaluate` does: measure a finished run beyond its test set, and keep what it found.

A report on what is decided already: nothing of it selects an epoch, a temperature or a champion.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from ekd_train.data import DataError, Dataset, load_dataset
from ekd_train.data.description import DataDescription
from ekd_train.data.subsets import balanced_order
from ekd_train.evaluation.predictors import load_predictors
from ekd_train.persistence.identity import differing, identity_of
from ekd_train.persistence.predictions import Predictions, load_predictions
from ekd_train.robustness import evaluate
from ekd_train.robustness.ood_data import OodData, load_held_out, load_outside
from ekd_train.robustness.settings import RobustnessSettings
from ekd_train.settings import DataSettings
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.explanation import explain
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.yaml_tree import apply_overrides
from orchestrator.pipeline.manifest import EVALUATION, NewerDocument, read_run
from orchestrator.pipeline.manifest_content import ManifestContent
from orchestrator.pipeline.networks import networks_of
from orchestrator.robustness.content import FORMAT, EvaluationContent, read_evaluation
from orchestrator.storage import Storage
from orchestrator.storage.data_source import local_data

CHECKED_IMAGES, CHECKED_TO = 100, 0.01
"""So many stored predictions must be met, to this difference in probability, before anything is measured."""


class EvaluationFailed(EkdError):
    """The stored run cannot be measured; one line says why."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that is trained and measured."""

    storage: Storage
    manifest: ManifestContent
    experiment: Experiment
    """Of a search: the best trial's."""

    @property
    def data(self) -> DataDescription:
        """Of the run's data set."""
        return self.manifest.prepared.data

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the weights of every network, by training run, and of the average."""
        trained = {name: made.weights_sha256 for name, made in self.manifest.trained.items()}
        return trained | {"averaged": self.manifest.averaged.weights_sha256}


def read_settings(overrides: Iterable[str]) -> RobustnessSettings:
    """Settings from `key=value` texts; raises `ExperimentError`."""
    tree: dict[str, Any] = {}
    apply_overrides(tree, overrides)
    try:
        return RobustnessSettings.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise ExperimentError(explain(error, RobustnessSettings, one_group=False)) from None


def finished_run(storage: Storage) -> FinishedRun:
    """The run in `storage`; raises `ExperimentError` if it has not come to its evaluation."""
    found = read_run(storage, "evaluate")
    if found is None:
        raise ExperimentError(f"{storage.uri()}: the run is not finished; continue it with what started it")
    return FinishedRun(storage, *found)


def evaluate_run(
    run: FinishedRun,
    settings: RobustnessSettings,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """The content of `evaluation.json`: measured now, or as it was if nothing that decides it has changed.

    `say` is told in a line what is missing, and what is not done again; `progress` how many images of
    how many are predicted.

    Raises `ExperimentError`: settings or data files do not fit the run; `EvaluationFailed`: stored networks
    do not predict what the run stored; `DamagedCheckpoint`: a stored object is not what was written.
    """
    outside = _outside(run, settings, say)
    key = _identity(run, settings, outside)
    before = _stored(run.storage)
    if before is not None and before.get("identity") == key:
        say("measured before with the same settings; not done again")
        return before
    began = time.perf_counter()
    with _idle_cores():
        found = _measure(run, _dataset(run, settings), outside, settings, progress)
    content = EvaluationContent(
        identity=key,
        run_id=run.manifest.run_id,
        number=1 + (before or {}).get("number", 0),
        seconds=round(time.perf_counter() - began, 1),
        settings=settings.model_dump(mode="json"),
        **found,
    ).to_json()
    run.storage.write(EVALUATION, json.dumps(content, indent=1).encode())
    return content


def _measure(
    run: FinishedRun,
    dataset: Dataset,
    outside: OodData | None,
    settings: RobustnessSettings,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stored = load_predictions(run.storage, run.data, run.manifest.evaluated.predictors)
    experiment = run.experiment
    predictors = load_predictors(
        networks_of(run.storage, run.manifest.run_id, experiment, run.data),
        experiment.control_run(),
        experiment.student_run(),
        device,
    ).named
    clean = _OnTest(stored, predictors)
    test, labels = dataset.test, torch.from_numpy(dataset.test.labels)
    first = torch.from_numpy(test.images[:CHECKED_IMAGES]).to(device)
    _check_same_predictions(evaluate.predict_all(predictors, first), clean)
    chosen = _chosen(dataset, settings)
    measured = run.manifest.evaluated.predictors
    corruption = evaluate.under_corruption(
        predictors,
        torch.from_numpy(test.images[chosen]).to(device),
        labels[chosen].to(device),
        {name: measured[name].temperature for name in predictors},
        settings,
        progress,
    )
    found: dict[str, Any] = {
        "corruption": {"baseline": evaluate.BASELINE, "images": len(chosen), "predictors": corruption},
        "risk_coverage": {"images": len(labels), "predictors": evaluate.selective(clean, labels)},
    }
    if outside is not None:
        foreign = evaluate.predict_all(predictors, outside.images.to(device))
        found["out_of_distribution"] = {
            "outside": outside.name,
            "images": len(outside.images),
            "predictors": evaluate.out_of_distribution(
                clean, {name: probs.cpu() for name, probs in foreign.items()}
            ),
        }
    return found


class _OnTest(Mapping[str, Tensor]):
    """What each predictor said of the test images, float32 `(s, n, c)`, read when it is asked for: of 100,000
    images and 1,000 classes one member's take 0.4 GB."""

    def __init__(self, stored: Predictions, names: Iterable[str]) -> None:
        self._stored, self._names = stored, tuple(names)

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat([block.float() for block in self._stored.blocks(f"test/{name}")], dim=1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _idle_cores() -> Iterator[None]:
    """Let torch use the cores that nobody else does.

    Its threads wait for each other in every operation: on two cores with ten other processes, two threads
    took 10 s for what one did in 0.6 s.
    """
    before = torch.get_num_threads()
    idle = (os.cpu_count() or 1) - round(os.getloadavg()[0])
    torch.set_num_threads(max(1, min(before, idle)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_same_predictions(now: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    for name, probs in now.items():
        worst = (probs.cpu() - stored[name][:, : probs.shape[1]]).abs().max().item()
        if not worst <= CHECKED_TO:
            raise EvaluationFailed(
                f"{name}: its stored weights give probabilities that differ by {worst:.2g} from those the "
                "run stored; they are not of the same run, or this version of ekd builds another network"
            )


def _chosen(dataset: Dataset, settings: RobustnessSettings) -> Any:
    """Which test images are corrupted: int64, ascending."""
    count = len(dataset.test)
    if settings.images is None:
        return np.arange(count)
    if settings.images > count:
        raise ExperimentError(f"images: asks for {settings.images} of {count} test images; lower it")
    order = balanced_order(dataset.test.labels, dataset.num_classes, "beyond")
    return np.sort(order[: settings.images])


def _dataset(run: FinishedRun, settings: RobustnessSettings) -> Dataset:
    """The run's data set, which must be the very images that it was measured on."""
    try:
        dataset = load_dataset(_where(run, settings))
    except DataError as error:
        raise ExperimentError(
            f"{error}; data_root says where the run's images are on this machine"
        ) from error
    if dataset.fingerprint != run.manifest.data_fingerprint:
        raise ExperimentError(
            f"the images now have the fingerprint {dataset.short_fingerprint}, the run's had "
            f"{run.manifest.data_fingerprint[:12]}: name the same files with --set data_root=FOLDER"
        )
    return dataset


def _where(run: FinishedRun, settings: RobustnessSettings) -> DataSettings:
    """The run's data settings, with its files where they are on this machine."""
    data = run.experiment.data
    here = data if settings.data_root is None else data.model_copy(update={"root": settings.data_root})
    return local_data(here, run.experiment.storage.endpoint_url)


def _outside(run: FinishedRun, settings: RobustnessSettings, say: Callable[[str], None]) -> OodData | None:
    own, held_out = run.data.name, run.experiment.data.held_out_classes
    if settings.outside == "none":
        return None
    if settings.outside == "held_out" and not held_out:
        raise ExperimentError("outside: the run knows all classes: its data.held_out_classes is empty")
    if settings.outside == "held_out" or (settings.outside == "auto" and held_out):
        try:
            return load_held_out(_where(run, settings), run.data.test)
        except DataError as error:
            raise ExperimentError(f"outside: {error}") from error
    if settings.outside == own:
        raise ExperimentError(f"outside: {own} is the run's own data; name another data set")
    name = settings.outside
    if name == "auto":
        name = "fashion_mnist" if own == "digits" else "digits"
    try:
        return load_outside(name, settings.outside_root, run.data.image_shape, run.data.test)
    except DataError as error:
        if settings.outside == "auto" and settings.outside_root is None:
            say(f"out-of-distribution detection is left out: {error}")
            return None
        raise ExperimentError(f"outside: {error}; its files are looked for in outside_root") from error


def _identity(run: FinishedRun, settings: RobustnessSettings, outside: OodData | None) -> str:
    """What a measurement is known by: everything that decides it."""
    kept = differing(settings, without=("outside", "outside_root", "data_root"))
    foreign = None
    if outside is not None:
        foreign = [outside.name, hashlib.sha256(outside.images.numpy().tobytes()).hexdigest()]
    return identity_of(FORMAT, kept, foreign, run.manifest.data_fingerprint, run.weights)


def _stored(storage: Storage) -> dict[str, Any] | None:
    """What an earlier evaluation kept; None if there is none, or it was damaged. Raises `NewerDocument`."""
    try:
        return read_evaluation(storage)
    except NewerDocument:
        raise
    except ExperimentError:
        return None

"""One training run of an arm with one seed, done in a process of its own and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.study.arms import ARMS
from benchmarks.study.choice import Choice
from benchmarks.study.member_averages import averages
from benchmarks.study.regimes import REGIMES
from benchmarks.study.results import packed
from benchmarks.study.weight_averages import swa, uniform_average
from ekd_train.data import load_dataset
from ekd_train.data.tensors import DeviceData, place
from ekd_train.distributed import Workers
from ekd_train.evaluation.diversity import diversity
from ekd_train.evaluation.evaluate import predict, predict_logits
from ekd_train.metrics import all_metrics, fit_temperature
from ekd_train.models.build_network import averaged
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.networks import Networks
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import TrainingRun
from ekd_train.training.reporter import Silent
from ekd_train.workers.jobs import execute
from orchestrator.storage.local import LocalStorage

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Cell:
    """What is trained; `final` ones are measured on the test images too."""

    regime: str
    arm: str
    seed: int
    choice: Choice
    teacher_set: int = 0
    final: bool = True

    @property
    def name(self) -> str:
        """Unique among those of its set of teachers, whether final or not: the training is the same."""
        chosen = self.choice
        rate = "" if chosen.rate == 1 else f"-r{chosen.rate:g}"
        arm = self.arm.replace("+", "-")
        return f"{arm}-t{chosen.temperature:g}-s{chosen.strength:g}{rate}-seed{self.seed}"

    def run(self) -> TrainingRun:
        """Its training run: the student's seed is the cell's, the teachers' are the regime's."""
        arm, chosen, regime = ARMS[self.arm], self.choice, REGIMES[self.regime]
        rate = regime.build("same").student.training.learning_rate * chosen.rate
        settings = [
            f"distillation.temperature={chosen.temperature}",
            f"perturbation.strength={chosen.strength}",
            f"student.training.learning_rate={rate}",
        ]
        experiment = regime.build(arm.pool, [*arm.overrides, *settings], self.teacher_set)
        run = experiment.control_run() if arm.made_by == "labels" else experiment.student_run()
        changes = {"name": self.name, "seed": self.seed, "best_teacher_only": arm.made_by == "best teacher"}
        if arm.made_by == "papa":
            changes["teachers"] = ()
        return run.model_copy(update=changes).sharing_predictions()


@dataclass(frozen=True)
class Teacher:
    """A teacher of a regime's pool."""

    regime: str
    pool: str
    index: int
    teacher_set: int = 0

    def run(self) -> TrainingRun:
        """Its training run."""
        return REGIMES[self.regime].teachers(self.pool, self.teacher_set)[self.index]


def one_thread() -> None:
    """Set up a process that trains beside others."""
    torch.set_num_threads(1)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def data_of(regime: str) -> DeviceData:
    """The regime's images, read once a process."""
    return place(load_dataset(REGIMES[regime].build("same").data), _device())


def store_of(folder: Path, regime: str, pool: str, teacher_set: int = 0) -> LocalStorage:
    """Where a set of a pool's teachers is kept, and the students that learn from it."""
    return LocalStorage((folder / regime / f"{pool}-{teacher_set}").absolute())


def train_teacher(teacher: Teacher, folder: Path) -> dict[str, Any]:
    """Train it unless that is done; its best validation record."""
    store = store_of(folder, teacher.regime, teacher.pool, teacher.teacher_set)
    record = _train(store, teacher.run(), data_of(teacher.regime))
    return record.best


def measure_teachers(
    regime: str, pool: str, folder: Path, splits: Sequence[str] = SPLITS, teacher_set: int = 0
) -> dict[str, Any]:
    """The teachers alone and together, on the images of `splits`."""
    data, store = data_of(regime), store_of(folder, regime, pool, teacher_set)
    runs = REGIMES[regime].teachers(pool, teacher_set)
    networks = [_load(store, run, data) for run in runs]
    ensemble = _measure(Teachers(networks), data, splits)
    return {"teachers": [_measure(network, data, splits) for network in networks], "ensemble": ensemble}


def run_cell(cell: Cell, folder: Path, others: tuple[Cell, ...] = ()) -> dict[str, Any]:
    """Train the cell unless that is done, and measure it.

    Args:
        cell: what to train.
        folder: where the study is kept.
        others: for a uniform average: the cells whose networks are averaged, all of them finished.

    Returns:
        `best`: the validation record of the weights that were kept. If final also `averaged`,
        `members` and `diversity`, measured on validation and test; `averages` alike, by how the members were
        averaged; and `right`: of each test image whether the predictor that the arm is compared by is right,
        as `packed` writes it.
    """
    arm, data = ARMS[cell.arm], data_of(cell.regime)
    store = store_of(folder, cell.regime, arm.pool, cell.teacher_set)
    key = f"results/{'final' if cell.final else 'validation'}/{cell.name}.json"
    run = cell.run()
    wanted = _fingerprint(run, others, data)
    if key in store.list("results"):
        kept = json.loads(store.read(key))
        if kept["fingerprint"] == wanted:
            result: dict[str, Any] = kept["result"]
            return result
    result = {}
    match arm.made_by:
        case "uniform average":
            networks = [_load(store, other.run(), data) for other in others]
            network = uniform_average(networks, data.training.train.images)
        case "swa":
            network = swa(run, data, _teachers(run, store, data))
        case _:
            record = _train(store, run, data)
            result["best"] = record.best
            network = _load(store, run, data)
    if cell.final:
        result["averaged"] = _measure(averaged(network), data)
        if isinstance(network, Subnetworks):
            result["members"] = _measure(network, data)
            result["diversity"] = diversity(predict(network, data.test.images))
            if arm.predictor == "averaged":
                ways = averages(network, data)
                result["averages"] = {way: _measure(one, data) for way, one in ways.items()}
        compared = network if arm.predictor == "members" else averaged(network)
        hits = _probs(compared, data.test.images).argmax(-1) == data.test.labels
        result["right"] = packed(hits.tolist())
    document = {"fingerprint": wanted, "cell": asdict(cell), "result": result}
    store.write(key, json.dumps(document, indent=1).encode())
    return result


def _teachers(run: TrainingRun, store: LocalStorage, data: DeviceData) -> Teachers:
    return Teachers([_load(store, teacher, data) for teacher in run.teachers])


def _train(store: LocalStorage, run: TrainingRun, data: DeviceData) -> NetworkRecord:
    record = execute(run, data, _networks(store, data), Silent(), Workers(device=_device()), 1)
    assert isinstance(record, NetworkRecord)
    return record


def _load(store: LocalStorage, run: TrainingRun, data: DeviceData) -> nn.Module:
    return _networks(store, data).load(run).to(data.training.train.images.device)


def _networks(store: LocalStorage, data: DeviceData) -> Networks:
    return Networks(store, store.child("networks"), data.description, "study")


def _measure(
    network: nn.Module, data: DeviceData, splits: Sequence[str] = SPLITS
) -> dict[str, dict[str, float]]:
    images = {"validation": data.training.validation, "test": data.test}
    images = {split: images[split] for split in splits}
    probs = {split: _probs(network, one.images) for split, one in images.items()}
    temperature = fit_temperature(probs["validation"], data.training.validation.labels)
    return {split: all_metrics(probs[split], one.labels, temperature) for split, one in images.items()}


def _probs(network: nn.Module, images: Tensor) -> Tensor:
    """`(b, c)`, the mean over members, in float64: what float32 rounds to 0, no temperature brings back."""
    return predict_logits(network, images).double().softmax(dim=-1).mean(0)


def _fingerprint(run: TrainingRun, others: tuple[Cell, ...], data: DeviceData) -> str:
    settings = [
        run.model_dump(mode="json"),
        [other.name for other in others],
        data.description.fingerprint,
    ]
    if (device := data.training.train.images.device.type) != "cpu":
        settings.append(device)  # networks of another device are others
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

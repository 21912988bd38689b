"""Finished networks in a store: their weights, and a record of how they came about."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ekd_train.data.description import DataDescription
from ekd_train.data.seeds import derive_seed
from ekd_train.metrics import checked
from ekd_train.models.build_network import averaged, build_network, build_plain, network_on_paper
from ekd_train.models.classifier import Classifier
from ekd_train.models.pruning import prune_channels
from ekd_train.persistence.bounded_tensors import MOST_HEADER_BYTES, room_for
from ekd_train.persistence.checkpoint import (
    DamagedCheckpoint,
    load_tensors,
    load_typed,
    save_hashed_tensors,
    save_record,
    save_tensors,
)
from ekd_train.persistence.identity import identity_of
from ekd_train.persistence.records import NetworkRecord, PredictionsRecord
from ekd_train.persistence.store import Store
from ekd_train.settings import TrainingRun

AVERAGED = "networks/averaged"
"""Key, without suffix, of the average of a run's student."""


def identity(run: TrainingRun, data_fingerprint: str) -> str:
    """What a run's weights are known by: its settings, its teachers', and the data."""
    return identity_of(run, data_fingerprint)


@dataclass(frozen=True)
class Networks:
    """The trained networks of one run, whose weights it shares with all runs of its storage.

        RUN/networks/NAME.json         how its network NAME came about, and the SHA-256 of the weights
        networks/SHA256.safetensors    weights, once for all runs
        networks/ADDRESS.json          the newest such record, by what decides the weights

    A record is written after the weights. Runs that train the same network at the same time both store it;
    each goes on with the bits of its own record, and the last is found from then on.

    Runs of versions before records of format 3 have their weights at `RUN/networks/NAME.safetensors`.
    """

    run: Store
    """Of the run."""
    shared: Store
    """The folder `networks` of the storage."""
    data: DataDescription
    run_id: str
    workers: int | tuple[int, int] = 1
    """`cluster.workers_per_run`: they decide the batch statistics, and so the weights."""

    def identity(self, run: TrainingRun) -> str:
        """`identity` of a training run on this data."""
        return identity(run, self.data.fingerprint)

    def address(self, run: TrainingRun) -> str:
        """What a network is found by among all runs': its identity and the number of workers."""
        found = self.identity(run)
        return found if self.workers == 1 else identity_of(found, self.workers)

    def find(self, run: TrainingRun, warn: Callable[[str], None] = lambda _: None) -> NetworkRecord | None:
        """The record of the network that `run` would train, if it is stored whole; this run's own first.

        `warn` is called with a line if there is one that is damaged, and none that is whole.
        """
        problem: Exception | None = None
        places = (self.run, f"networks/{run.name}.json"), (self.shared, f"{self.address(run)}.json")
        for store, key in places:
            try:
                record = load_typed(store, key, NetworkRecord)
            except LookupError:
                continue
            except DamagedCheckpoint as error:
                problem = error
                continue
            if record.identity != self.identity(run):
                continue
            try:
                self._weights(run.name, record, network_on_paper(run, self.data))
            except (DamagedCheckpoint, LookupError) as error:
                problem = error
            else:
                return record
        if problem is not None:
            warn(f"{run.name}: {problem}; it is trained again")
        return None

    def save(
        self, run: TrainingRun, network: nn.Module, record: NetworkRecord, place: str | None = None
    ) -> NetworkRecord:
        """Store the trained network of `run`; the record with the hash of its weights. `place` as `refer`."""
        sha256 = save_hashed_tensors(self.shared, network.state_dict())
        record = record.model_copy(update={"sha256": sha256})
        self.refer(run, record, place)
        save_record(self.shared, f"{self.address(run)}.json", record.model_dump())
        return record

    def refer(self, run: TrainingRun, record: NetworkRecord, place: str | None = None) -> None:
        """Note in the run's folder that this is its network of `run`: as long as that stands it is kept.

        `place`: of a trial of a search, its folder; None: where `load` looks.
        """
        key = f"networks/{run.name}.json" if place is None else f"{place}/network.json"
        with suppress(DamagedCheckpoint, LookupError):
            if load_typed(self.run, key, NetworkRecord) == record:
                return
        save_record(self.run, key, record.model_dump())

    def load(self, run: TrainingRun, record: NetworkRecord | None = None) -> nn.Module:
        """The finished network of `run`, in evaluation mode; with `record`, the one that `find` has found.

        Raises `DamagedCheckpoint`, or a `LookupError` if there is none.
        """
        record = record or load_network_record(self.run, run.name)
        network = build_network(run, self.data)
        return _filled(network, self._weights(run.name, record, network), run.name)

    def keep_pretrained(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Store weights that are older than the run, by the SHA-256 of what they were read from."""
        for source, tensors in weights.items():
            sha256 = save_hashed_tensors(self.shared, tensors)
            record = NetworkRecord(identity=source, sha256=sha256, trained_by=self.run_id)
            save_record(self.run, f"networks/{_pretrained(source)}.json", record.model_dump())

    def starting_weights(self, run: TrainingRun) -> dict[str, Tensor] | None:
        """What `run` begins with; None: random weights.

        The finished network that it starts from, pruned; or weights older than the run, where what these
        lack (a head of other classes) is drawn: for every teacher anew, for control and student alike. A
        function of the stored weights and of `run`, on the CPU, so that every worker and every start of the
        run has the same.
        """
        if run.starts_from is not None:
            unpruned = cast(Classifier, averaged(self.load(run.starts_from)))
            return prune_channels(unpruned, run.architecture.pruned, self.data.image_shape).state_dict()
        if run.architecture.weights_sha256 is None:
            return None
        name = _pretrained(run.architecture.weights_sha256)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(run.seed, run.name if run.is_teacher else "student", "head"))
            plain = build_plain(run.architecture, self.data)
        return plain.state_dict() | self._weights(name, load_network_record(self.run, name), plain)

    def _weights(self, name: str, record: NetworkRecord, network: nn.Module) -> dict[str, Tensor]:
        """`network`: of which it should be those."""
        most = room_for(network.state_dict())
        if not record.trained_by:
            return load_tensors(self.run, f"networks/{name}.safetensors", record.sha256, most)
        return load_tensors(self.shared, f"{record.sha256}.safetensors", record.sha256, most)


def _pretrained(sha256: str) -> str:
    """Of weights older than the run: their name among its networks."""
    return f"pretrained-{sha256}"


def load_network_record(store: Store, name: str) -> NetworkRecord:
    """How the finished network `name` of the run in `store` came about.

    Raises `DamagedCheckpoint`, or a `LookupError` if there is none.
    """
    return load_typed(store, f"networks/{name}.json", NetworkRecord)


def save_average(store: Store, network: nn.Module, record: NetworkRecord) -> None:
    """Store the average of a run's student at `networks/averaged`, for this run alone."""
    sha256 = save_tensors(store, f"{AVERAGED}.safetensors", network.state_dict())
    save_record(store, f"{AVERAGED}.json", record.model_copy(update={"sha256": sha256}).model_dump())


def load_average(store: Store, network: nn.Module) -> nn.Module:
    """Fill `network` with what `save_average` stored; evaluation mode. Errors as `Networks.load`."""
    record = load_typed(store, f"{AVERAGED}.json", NetworkRecord)
    most = room_for(network.state_dict())
    return _filled(network, load_tensors(store, f"{AVERAGED}.safetensors", record.sha256, most), AVERAGED)


def _filled(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise DamagedCheckpoint(f"{name}: of another network than its run's: {why}") from error
    return network.eval()


PREDICTIONS = "evaluation/predictions"
SPLITS = ("validation", "test")
MOST_MEMBERS = 256
"""Of a student, for the room that predictions may take."""


def save_predictions(
    store: Store, tensors: Mapping[str, Tensor], record: PredictionsRecord
) -> PredictionsRecord:
    """Store what an evaluation predicted and then its record, which commits it; the record with the hash."""
    sha256 = save_tensors(store, f"{PREDICTIONS}.safetensors", tensors)
    record = record.model_copy(update={"sha256": sha256})
    save_record(store, f"{PREDICTIONS}.json", record.model_dump())
    return record


class _OfLogits(Mapping[str, Tensor]):
    """Tensors of which the logits are probabilities once they are looked up: float64, one at a time.

    In float32 a class whose logit is 104 below the largest has probability 0, and no temperature brings it
    back; in float64 one that is 745 below.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, key: str) -> Tensor:
        folder, _, name = key.partition("/")
        tensor = self._tensors[key]
        return tensor.double().softmax(dim=-1) if folder in SPLITS and name != "labels" else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def load_predictions(store: Store, data: DataDescription, predictors: Iterable[str]) -> Mapping[str, Tensor]:
    """What an evaluation predicted: `<split>/labels` (n,) and probabilities `<split>/<predictor>` (s, n, c).

    And, of runs since they are kept, the test images that the averaged student gets wrong and is surest of:
    `mistakes/indices` (m,) and `mistakes/images` uint8 (m, channel, height, width).

    `data`, `predictors`: of which data set, and whose predictions there must be. Raises `DamagedCheckpoint`
    where they are not that, or a `LookupError` if there are none.
    """
    record = load_typed(store, f"{PREDICTIONS}.json", PredictionsRecord)
    key = f"{PREDICTIONS}.safetensors"
    names = tuple(predictors)
    image = data.num_classes * (MOST_MEMBERS + 2 * len(names)) + math.prod(data.image_shape)
    most = 8 * (data.validation + data.test) * image + MOST_HEADER_BYTES
    tensors: Mapping[str, Tensor] = load_tensors(store, key, record.sha256, most)
    if record.holds == "logits":
        tensors = _OfLogits(tensors)
    try:
        for split in SPLITS:
            count = getattr(data, split)
            for name in names:
                probs = tensors[f"{split}/{name}"]
                if probs.ndim != 3 or probs.shape[1:] != (count, data.num_classes) or len(probs) == 0:
                    raise ValueError(f"{name} on {split} is of shape {tuple(probs.shape)}")
                checked(probs.mean(0), tensors[f"{split}/labels"])
        if "mistakes/indices" in tensors:
            _check_mistakes(tensors["mistakes/indices"], tensors["mistakes/images"], data)
    except (KeyError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise DamagedCheckpoint(f"{key}: not what was predicted on this run's images ({why})") from error
    return tensors


def _check_mistakes(indices: Tensor, images: Tensor, data: DataDescription) -> None:
    if indices.dtype != torch.int64 or images.dtype != torch.uint8:
        raise ValueError("the mistakes are of other types")
    if indices.ndim != 1 or images.shape != (len(indices), *data.image_shape):
        raise ValueError(f"the mistakes' images are of shape {tuple(images.shape)}")
    if not torch.isin(indices, torch.arange(data.test)).all():
        raise ValueError("a mistake is none of the test images")

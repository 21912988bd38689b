"""Finished networks in a store: their weights, and a record of how they came about."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ekd_train.data.description import DataDescription
from ekd_train.data.seeds import derive_seed
from ekd_train.models.build_network import averaged, build_network, build_plain, network_on_paper
from ekd_train.models.classifier import Classifier
from ekd_train.models.pruning import prune_channels
from ekd_train.persistence.bounded_tensors import room_for
from ekd_train.persistence.checkpoint import (
    DamagedCheckpoint,
    load_tensors,
    load_typed,
    save_hashed_tensors,
    save_record,
    save_tensors,
)
from ekd_train.persistence.identity import identity_of
from ekd_train.persistence.records import NetworkRecord
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
            again = "is taken from its weights again" if run.role == "given" else "is trained again"
            warn(f"{run.name}: {problem}; it {again}")
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


def load_pretrained(run: Store, shared: Store, source: str, most_bytes: int) -> dict[str, Tensor]:
    """What `Networks.keep_pretrained` stored for a run of the weights whose source has that SHA-256.

    Errors as `load_network_record`.
    """
    name = _pretrained(source)
    record = load_network_record(run, name)
    if record.identity != source:
        raise DamagedCheckpoint(f"{name}: its record is of other weights")
    place = (shared, record.sha256) if record.trained_by else (run, f"networks/{name}")
    return load_tensors(place[0], f"{place[1]}.safetensors", record.sha256, most_bytes)


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

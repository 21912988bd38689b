"""Finished networks in a store: their weights, and a record of how they came about."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from ekd_train.data.description import ImageSpec
from ekd_train.models.build_network import averaged, build_network
from ekd_train.models.classifier import Classifier
from ekd_train.models.pruning import prune_channels
from ekd_train.persistence.checkpoint import (
    DamagedCheckpoint,
    Store,
    load_tensors,
    load_typed,
    save_record,
    save_tensors,
)
from ekd_train.persistence.identity import identity_of
from ekd_train.persistence.records import NetworkRecord, PredictionsRecord
from ekd_train.settings import TrainingRun


def identity(run: TrainingRun, data_fingerprint: str) -> str:
    """What a run's weights are known by: its settings, its teachers', and the data."""
    return identity_of(run, data_fingerprint)


def save_network(store: Store, name: str, network: nn.Module, record: NetworkRecord) -> NetworkRecord:
    """Store `network`'s weights and then its record, which commits them; returns the record with the hash."""
    sha256 = save_tensors(store, f"networks/{name}.safetensors", network.state_dict())
    record = record.model_copy(update={"sha256": sha256})
    save_record(store, f"networks/{name}.json", record.model_dump())
    return record


def load_network_record(store: Store, name: str) -> NetworkRecord:
    """How the finished network `name` came about.

    Raises `DamagedCheckpoint`, or a `LookupError` if there is none.
    """
    return load_typed(store, f"networks/{name}.json", NetworkRecord)


def find_network(store: Store, name: str, identity: str) -> NetworkRecord | None:
    """The record of a finished network of that identity, or None: not finished, another, or damaged."""
    try:
        record = load_network_record(store, name)
        if record.identity != identity:
            return None
        load_tensors(store, f"networks/{name}.safetensors", record.sha256)
    except (DamagedCheckpoint, LookupError):
        return None
    return record


def load_weights(store: Store, name: str, network: nn.Module) -> nn.Module:
    """Fill `network` with the finished weights of `name`; evaluation mode.

    Raises `DamagedCheckpoint` if they are not the bytes that were stored.
    """
    record = load_network_record(store, name)
    weights = load_tensors(store, f"networks/{name}.safetensors", record.sha256)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise DamagedCheckpoint(f"networks/{name}: of another network than its run's: {why}") from error
    return network.eval()


def load_network(store: Store, run: TrainingRun, spec: ImageSpec) -> nn.Module:
    """The finished network of `run`, which was built for images of `spec`."""
    return load_weights(store, run.name, build_network(run, spec))


def starting_weights(store: Store, run: TrainingRun, spec: ImageSpec) -> dict[str, Tensor] | None:
    """What `run` begins with: the finished network that it starts from, pruned; None: random weights.

    A function of the stored weights and of `run`, on the CPU, so that every worker and every start
    of the run has the same.
    """
    if run.starts_from is None:
        return None
    unpruned = cast(Classifier, averaged(load_network(store, run.starts_from, spec)))
    return prune_channels(unpruned, run.architecture.pruned, spec.image_shape).state_dict()


PREDICTIONS = "evaluation/predictions"


def save_predictions(
    store: Store, tensors: Mapping[str, Tensor], record: PredictionsRecord
) -> PredictionsRecord:
    """Store what an evaluation predicted and then its record, which commits it; the record with the hash."""
    sha256 = save_tensors(store, f"{PREDICTIONS}.safetensors", tensors)
    record = record.model_copy(update={"sha256": sha256})
    save_record(store, f"{PREDICTIONS}.json", record.model_dump())
    return record


def load_predictions(store: Store) -> dict[str, Tensor]:
    """What an evaluation predicted: `<split>/labels` (n,) and `<split>/<predictor>` (s, n, c).

    Raises `DamagedCheckpoint`, or a `LookupError` if there was none.
    """
    record = load_typed(store, f"{PREDICTIONS}.json", PredictionsRecord)
    return load_tensors(store, f"{PREDICTIONS}.safetensors", record.sha256)

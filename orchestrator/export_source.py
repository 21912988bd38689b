"""Where `ekd export` takes a student from: a run's storage, or the model registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.experiment import ExperimentError, build_experiment
from orchestrator.export import Source
from orchestrator.manifest import read_run
from orchestrator.model_uri import MODEL_URI
from orchestrator.rebuilding import PRUNED_TAG, rebuilding
from orchestrator.registry.champion import aliased, version_of
from orchestrator.registry.exported_model import ExportError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import nn

    from orchestrator.storage import Storage


def from_run(storage: Storage) -> Source:
    """The averaged student of a run, rebuilt from its settings and checked against the manifest's hash.

    Raises:
        ExperimentError: the run has no averaged student yet.
        DamagedCheckpoint, ExportError: the stored weights are not those that the run made.
    """
    from ekd_train.networks import load_weights
    from ekd_train.trainee import build_plain
    from orchestrator.registry.provenance import weights_sha256

    found = read_run(storage, "average")
    if found is None:
        raise ExperimentError(f"{storage.uri()}: the run has no averaged student yet")
    manifest, experiment = found
    description = manifest["stages"]["prepare"]["outputs"]["data"]
    keys = ("num_classes", "image_shape", "mean", "std")
    architecture = build_experiment(experiment).student.architecture
    network = build_plain(architecture, **{key: description[key] for key in keys})
    load_weights(storage, "averaged", network)
    sha256 = weights_sha256(network)
    _check_hash(sha256, manifest["stages"]["average"]["outputs"]["weights_sha256"], storage.uri())
    shape, where = _shape(description["image_shape"]), storage.uri("networks/averaged")
    rebuild = rebuilding(architecture.model_dump(), description) if architecture.pruned else ""
    return Source(network, shape, sha256, where, rebuild)


def from_registry(client: MlflowClient, uri: str, tracking_uri: str) -> Source:
    """A registered version, loaded in its pt2 form and checked against the registry's hash.

    Raises:
        ExportError: the weights are not those that were registered.
        NoSuchVersion: the registry has no such model, version or alias.
        TrackingError: the registry cannot be reached.
    """
    import mlflow
    import mlflow.pytorch

    from orchestrator.registry.provenance import weights_sha256
    from orchestrator.registry.registration import WEIGHTS_TAG
    from orchestrator.tracking.connection import patient

    name, version = _resolve(client, uri)
    found = version_of(client, name, version)
    with patient(tracking_uri):
        mlflow.set_tracking_uri(tracking_uri)
        network: nn.Module = mlflow.pytorch.load_model(f"models:/{name}/{version}", map_location="cpu")
        signature: Any = mlflow.models.get_model_info(f"models:/{name}/{version}").signature
    sha256 = weights_sha256(network)
    _check_hash(sha256, found.tags.get(WEIGHTS_TAG, ""), f"models:/{name}/{version}")
    shape = signature.inputs.to_dict()[0]["tensor-spec"]["shape"][1:]
    rebuild = "# see the model card: the version's description" if PRUNED_TAG in found.tags else ""
    return Source(network, _shape(shape), sha256, f"models:/{name}/{version}", rebuild)


def _resolve(client: MlflowClient, uri: str) -> tuple[str, str]:
    """Name and version of `models:/NAME/VERSION` or `models:/NAME@ALIAS`."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        raise ExperimentError(f"{uri}: write it as models:/NAME/VERSION or models:/NAME@champion")
    return match["name"], match["version"] or aliased(client, match["name"], match["alias"])


def _check_hash(found: str, expected: str, where: str) -> None:
    if found != expected:
        raise ExportError(
            f"{where}: the weights' SHA-256 is {found[:16]}..., recorded was {expected[:16] or 'none'}...; "
            "the files were changed since, and are not exported"
        )


def _shape(shape: Any) -> tuple[int, int, int]:
    channels, height, width = (int(length) for length in shape)
    return channels, height, width

"""Where `ekd export` takes a student from: a run's storage, or the model registry."""

from __future__ import annotations

import logging
import tempfile
from typing import TYPE_CHECKING, Any

from torch import nn

from ekd_train.data.description import ImageSpec
from ekd_train.persistence.networks import load_weights
from ekd_train.settings import Architecture
from ekd_train.training.trainee import build_plain
from orchestrator.errors import ExperimentError
from orchestrator.experiment.model_uri import MODEL_URI
from orchestrator.export.formats import Source
from orchestrator.pipeline.manifest import read_run
from orchestrator.registry.champion import aliased, version_of
from orchestrator.registry.exported_model import ExportError
from orchestrator.registry.provenance import ARCHITECTURE_TAG, weights_sha256
from orchestrator.registry.registration import WEIGHTS_TAG
from orchestrator.storage import Storage
from orchestrator.tracking.connection import patient

if TYPE_CHECKING:
    from mlflow import MlflowClient


def from_run(storage: Storage) -> Source:
    """The averaged student of a run, rebuilt from its settings and checked against the manifest's hash.

    Raises:
        ExperimentError: the run has no averaged student yet.
        DamagedCheckpoint, ExportError: the stored weights are not those that the run made.
    """
    found = read_run(storage, "average")
    if found is None:
        raise ExperimentError(f"{storage.uri()}: the run has no averaged student yet")
    manifest, experiment = found
    description = manifest.prepared.data
    architecture = experiment.student.architecture
    network = build_plain(architecture, description)
    load_weights(storage, "averaged", network)
    sha256 = weights_sha256(network)
    _check_hash(sha256, manifest.averaged.weights_sha256, storage.uri())
    where = storage.uri("networks/averaged")
    shape = architecture.model_dump(exclude_none=True)
    return Source(network, sha256, where, shape, description, description.class_names)


def from_registry(client: MlflowClient, uri: str, tracking_uri: str) -> Source:
    """A registered version, loaded in its pt2 form and checked against the registry's hash.

    Raises:
        ExportError: the weights are not those that were registered, or their files cannot be read.
        NoSuchVersion: the registry has no such model, version or alias.
        TrackingError: the registry cannot be reached.
    """
    import mlflow.pytorch  # 2 s, which an export of a run need not wait

    name, version = _resolve(client, uri)
    found = version_of(client, name, version)
    where = f"models:/{name}/{version}"
    with patient(tracking_uri), tempfile.TemporaryDirectory() as temporary:
        folder = mlflow.artifacts.download_artifacts(where, dst_path=temporary)
        # It logs a traceback of what it cannot read, which we report in one line.
        logging.getLogger("torch.export").setLevel(logging.CRITICAL)
        try:
            network: nn.Module = mlflow.pytorch.load_model(folder, map_location="cpu")
            signature: Any = mlflow.models.get_model_info(folder).signature
        except Exception as error:
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise ExportError(f"{where}: the registered files cannot be read: {why}") from error
    for module in network.modules():
        module.training = False  # what was exported in evaluation mode says otherwise once it is loaded
    sha256 = weights_sha256(network)
    _check_hash(sha256, found.tags.get(WEIGHTS_TAG, ""), where)
    architecture = None
    if tag := found.tags.get(ARCHITECTURE_TAG):
        architecture = Architecture.model_validate_json(tag).model_dump(exclude_none=True)
    channels, height, width = _shape_of(signature.inputs)[1:]
    spec = ImageSpec(
        num_classes=_shape_of(signature.outputs)[1],
        image_shape=(channels, height, width),
        mean=_normalisation(network, "mean"),
        std=_normalisation(network, "std"),
    )
    return Source(network, sha256, where, architecture, spec)


def _normalisation(network: nn.Module, key: str) -> tuple[float, ...] | None:
    """`mean` or `std` per channel of an exported `Classifier`, as the decimals that float32 was made from."""
    buffer = dict(network.named_buffers()).get(f"normalise.{key}")
    return None if buffer is None else tuple(float(str(value)) for value in buffer.numpy().ravel())


def _shape_of(schema: Any) -> list[int]:
    return [int(length) for length in schema.inputs[0].shape]


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

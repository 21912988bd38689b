"""Where `ekd export` takes a student from: a run's storage, or the model registry."""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ekd_train.data.description import ImageSpec
from ekd_train.models.build_network import build_plain
from ekd_train.own_code import allow
from ekd_train.persistence.networks import AVERAGED, load_average
from ekd_train.settings import Architecture
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import MODEL_URI, RUN_ID
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.yaml_tree import MOST_CHARACTERS, read_yaml
from orchestrator.export.formats import Source
from orchestrator.pipeline.manifest import read_run
from orchestrator.registry.champion import aliased, version_of
from orchestrator.registry.exported_model import (
    ARCHIVE,
    ARCHIVE_TAG,
    ExportError,
    files_to_fetch,
    load_exported,
)
from orchestrator.registry.logged_model import WEIGHTS_TAG, recorded_of
from orchestrator.registry.provenance import ARCHITECTURE_TAG, weights_sha256
from orchestrator.storage import Storage
from orchestrator.tracking.connection import check_own_model, patient
from orchestrator.tracking.runs import RUN_ID_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient


def from_run(storage: Storage, *, trusted: bool = False) -> Source:
    """The averaged student of a run, rebuilt from its settings and checked against the manifest's hash.

    `trusted`: the modules of the user's own that it names may run, if their source is the same.

    Raises `ExperimentError`: the run has no averaged student yet; `DamagedCheckpoint` or `ExportError`: the
    stored weights are not those that the run made.
    """
    found = read_run(storage, "average")
    if found is None:
        raise ExperimentError(f"{storage.uri()}: the run has no averaged student yet")
    manifest, experiment = found
    if trusted:
        allow(experiment.code)
    description = manifest.prepared.data
    architecture = experiment.student.architecture
    network = build_plain(architecture, description)
    load_average(storage, network)
    sha256 = weights_sha256(network)
    _check_hash(sha256, manifest.averaged.weights_sha256, storage.uri())
    where = storage.uri(AVERAGED)
    return Source(network, sha256, where, architecture, description, description.class_names)


def from_registry(
    client: "MlflowClient", uri: str, tracking_uri: str, *, stated: str | None = None
) -> Source:
    """A registered version, loaded in its pt2 form once the file is known to be the one that was registered.

    `stated`: the SHA-256 of its file that the user expects; a version that somebody else registered has no
    tag that says it.

    Raises `ExperimentError`: the version was registered without the SHA-256 of its file, or with another than
    `stated`; `ExportError`: it is in a pickled form, the weights are not those that were registered, or their
    files cannot be read; `NoSuchVersion`: the registry has no such model, version or alias; `TrackingError`:
    the registry cannot be reached.
    """
    import mlflow  # 2 s, which an export of a run need not wait

    name, version = _resolve(client, uri)
    found = version_of(client, name, version)
    where = f"models:/{name}/{version}"
    tagged = found.tags.get(ARCHIVE_TAG)
    if stated and tagged not in (None, stated):
        raise ExperimentError(
            f"{where}: its SHA-256 is {str(tagged)[:16]}... by the registry's tag, but weights_sha256 states "
            f"{stated[:16]}...; it is not loaded: restore the version, or state what it is now"
        )
    archived = stated or tagged
    location = client.get_model_version_download_uri(name, version)
    if location.startswith("models:/m-"):
        location = client.get_logged_model(location.removeprefix("models:/")).artifact_location
    check_own_model(tracking_uri, location)
    with patient(tracking_uri), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # It logs a traceback of what it cannot read, which we report in one line.
        logging.getLogger("torch.export").setLevel(logging.CRITICAL)
        try:
            paths = files_to_fetch(
                file
                for below in (where, f"{where}/{Path(ARCHIVE).parent}")
                for file in mlflow.artifacts.list_artifacts(artifact_uri=below)
            )
            if archived is None:  # after its form: what is pickled is not loaded with any hash
                raise ExperimentError(f"{where}: {_no_hash(found.tags.get(RUN_ID_TAG))}")
            for path in paths:
                mlflow.artifacts.download_artifacts(f"{where}/{path}", dst_path=temporary)
            network = load_exported(folder, archived)
        except ExportError as error:
            raise ExportError(f"{where}: {error}") from error.__cause__
        class_names = class_names_in(folder, where)
    sha256 = weights_sha256(network)
    tags = recorded_of(client, found).tags
    if ARCHIVE_TAG in found.tags:
        _check_hash(sha256, tags.get(WEIGHTS_TAG, ""), where)
    architecture, tag = None, tags.get(ARCHITECTURE_TAG)
    if tag:
        try:
            architecture = Architecture.model_validate_json(tag)
        except ValueError as error:
            raise ExportError(f"{where}: its tag {ARCHITECTURE_TAG}: {one_line(error, 200)}") from error
    spec = spec_of(network, where)
    if class_names is not None and len(class_names) != spec.num_classes:
        raise ExportError(f"{where}: it has {spec.num_classes} classes, but names of {len(class_names)}")
    return Source(network, sha256, where, architecture, spec, class_names, archived)


def _no_hash(run_id: str | None) -> str:
    """What to do where no hash says that the file is the one that was registered."""
    problem = f"has no tag {ARCHIVE_TAG} to compare its file with, and is not loaded"
    if run_id is None:
        return (
            f"{problem}; ekd did not register it: to teach with it state architecture, mean and std, and "
            f"weights_sha256, the SHA-256 of its {ARCHIVE}, where you trust that file"
        )
    run = run_id if RUN_ID.fullmatch(run_id) else "RUN_ID"
    return f"{problem}; export the run that made it: `ekd export {run}`"


def class_names_in(folder: Path, where: str) -> list[str] | None:
    """What the file MLmodel says beside the program, whose hash does not cover it; None: nothing.

    Earlier versions of ekd wrote none. Raises `ExportError`, which names `where`.
    """
    try:
        with open(folder / "MLmodel", encoding="utf-8") as file:
            described = read_yaml(file.read(MOST_CHARACTERS + 1), "MLmodel")
        names = (described.get("metadata") or {}).get("class_names")
        if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return names
        raise ValueError("class_names is no list of names")
    except Exception as error:
        raise ExportError(f"{where}: its file MLmodel cannot be read: {one_line(error, 300)}") from error


def spec_of(network: nn.Module, where: str) -> ImageSpec:
    """The images and classes of a program; raises `ExportError` where it is of other things."""
    graph: Any = network.graph
    try:
        (images,) = graph.find_nodes(op="placeholder")
        channels, height, width = (int(length) for length in images.meta["val"].shape[1:])
        return ImageSpec(
            num_classes=int(graph.output_node().meta["val"][0].shape[1]),
            image_shape=(channels, height, width),
            mean=_normalisation(network, "mean"),
            std=_normalisation(network, "std"),
        )
    except Exception as error:  # what somebody else registered may be any program
        expected = "a program from images (b, channel, height, width) to logits"
        raise ExportError(f"{where}: not {expected}: {one_line(error, 200)}") from error


def _normalisation(network: nn.Module, key: str) -> tuple[float, ...] | None:
    """`mean` or `std` per channel of an exported `Classifier`, as the decimals that float32 was made from."""
    buffer = dict(network.named_buffers()).get(f"normalise.{key}")
    return None if buffer is None else tuple(float(str(value)) for value in buffer.numpy().ravel())


def _resolve(client: "MlflowClient", uri: str) -> tuple[str, str]:
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

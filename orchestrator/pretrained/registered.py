"""Models in MLflow's registry, in their pt2 form."""

import os
from typing import Any

from ekd_train.settings import Pretrained
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.export.formats import Source
from orchestrator.export.source import from_registry
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.same_function import Program
from orchestrator.registry.exported_model import ARCHIVE_TAG
from orchestrator.tracking import resolve_tracking_uri
from orchestrator.tracking.address import sqlite_file
from orchestrator.tracking.connection import connect, explained


def read(name: str, experiment: Experiment, stated: str | None) -> PretrainedNetwork:
    """The version `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    A pt2 file is code: its SHA-256 is compared with the one that `ekd` registered it with, or with `stated`,
    before it is opened. What `ekd` did not register takes images in [0, 1], and whether it normalises them is
    within: the program goes with the weights, to be compared with what is made of them.

    Raises as `orchestrator.export.source.from_registry`.
    """
    tracking_uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)
    file = sqlite_file(tracking_uri)
    if file is not None and not os.path.isfile(file):
        raise ExperimentError(f"there is no registry at {file}; tracking.uri says where it is")
    with explained(tracking_uri, "use the model registry of"):
        source = from_registry(connect(tracking_uri), f"models:/{name}", tracking_uri, stated=stated)
    architecture = source.architecture
    if architecture is not None:
        architecture = architecture.model_copy(update=dict.fromkeys(Pretrained.model_fields))
    wanted = source.architecture or Pretrained()
    ours = source.architecture is not None or source.spec.mean is not None
    return PretrainedNetwork(
        {key: t for key, t in source.network.state_dict().items() if not key.startswith("normalise.")},
        source.archive_sha256,
        architecture if architecture is not None and ":" not in architecture.name else None,
        mean=wanted.mean or source.spec.mean,
        std=wanted.std or source.spec.std,
        image_size=wanted.image_size or source.spec.image_shape[1],
        class_names=tuple(source.class_names) if source.class_names is not None else None,
        program=None if ours else _program(source),
        address=source.where,
    )


def version_with(name: str, sha256: str, experiment: Experiment) -> str | None:
    """`models:/NAME/VERSION` of the newest version of `NAME@ALIAS` that was registered with that SHA-256.

    None: none was. Raises `TrackingError`.
    """
    name = name.partition("@")[0]
    tracking_uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)
    with explained(tracking_uri, "use the model registry of"):
        found = connect(tracking_uri).search_model_versions(f"name = '{name}'")
    versions = [int(each.version) for each in found if each.tags.get(ARCHIVE_TAG) == sha256]
    return f"models:/{name}/{max(versions)}" if versions else None


def _program(source: Source) -> Program:
    graph: Any = source.network.graph
    (images,) = graph.find_nodes(op="placeholder")
    batch = images.meta["val"].shape[0]
    return Program(source.network, source.spec.image_shape, batch if isinstance(batch, int) else 2)

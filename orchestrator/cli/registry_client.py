"""The model registry that commands name."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import MODEL_NAME
from orchestrator.tracking import check_tracking, resolve_tracking_uri
from orchestrator.tracking.address import sqlite_file
from orchestrator.tracking.connection import connect, explained

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def open_registry(arguments: argparse.Namespace) -> "Iterator[MlflowClient]":
    """A client of the registry that `--tracking` or `--storage` names.

    Raises `ExperimentError`: there is no registry; `TrackingError`: it cannot be reached, or fails while it
    is used.
    """
    uri = resolve_tracking_uri(arguments.tracking, arguments.storage)
    file = sqlite_file(uri)
    if file is not None and not os.path.isfile(file):  # False too where the path cannot be one
        raise ExperimentError(
            f"{file}: there is no registry here; --tracking URI or --storage URI says where it is"
        )
    if file is None:
        check_tracking(uri)
    client = connect(uri)
    with explained(uri, "use the model registry of"):
        yield client


def check_model_name(name: str) -> str:
    """`name`, if it can be a registered student's; raises `ExperimentError`."""
    if MODEL_NAME.fullmatch(name) is None:
        raise ExperimentError(f"{name!r} is not the name of a registered student; see `ekd models`")
    return name

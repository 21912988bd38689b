"""Tries, one by one, everything that a run of an experiment would use."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ekd_train.data import describe
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import Experiment
from orchestrator.planning.data import load_here, room
from orchestrator.planning.networks import bytes_needed, check_networks
from orchestrator.planning.preflight import (
    PATIENCE_S,
    check_capacity,
    check_images,
    log_of_ray,
    nothing_left,
)
from orchestrator.runtime.ray_session import listening_address, start_ray, stop_ray, token_warning
from orchestrator.storage import open_storage
from orchestrator.storage.preflight import check_room, check_storage
from orchestrator.tracking import check_tracking, redacted, resolve_tracking_uri
from orchestrator.tracking.address import sqlite_file


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: whether it works, and what was seen or what to do."""

    what: str
    ok: bool
    detail: str
    seconds: float


def diagnose(experiment: Experiment) -> Iterator[Finding]:
    """Storage, tracking, data, networks and cluster, each as soon as it is known.

    Nothing is left behind but a log that an error names.
    """
    checks: dict[str, Callable[[Experiment], str]] = {
        "storage": _storage,
        "tracking": _tracking,
        "data": _data,
        "cluster": _cluster,
    }
    for what, look in checks.items():
        began = time.perf_counter()
        try:
            detail, ok = look(experiment), True
        except Exception as error:  # a doctor reports whatever is wrong
            detail, ok = one_line(error), False
        yield Finding(what, ok, detail, time.perf_counter() - began)


def _storage(experiment: Experiment) -> str:
    kept = experiment.storage
    storage = open_storage(kept.uri, kept.endpoint_url, patience_s=PATIENCE_S)
    with nothing_left(storage.local_folder):
        warning = check_storage(storage)
    tried = "write, conditional write, read, list, delete"
    return f"{storage.uri()}: {tried}{f'; {warning}' if warning else ''}"


def _tracking(experiment: Experiment) -> str:
    uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)
    file = sqlite_file(uri)
    with nothing_left(file.parent if file else None):
        check_tracking(uri)
    return redacted(uri)


def _data(experiment: Experiment) -> str:
    found = describe(
        load_here(experiment.data, experiment.storage.endpoint_url, room(experiment.cluster), make=False)
    )
    check_images(experiment, found)
    check_networks(experiment, found)
    kept = experiment.storage
    storage = open_storage(kept.uri, kept.endpoint_url, patience_s=PATIENCE_S)
    check_room(storage, bytes_needed(experiment, found))
    return (
        f"{found.name}: {found.train} + {found.validation} + {found.test} images, "
        f"{found.num_classes} classes, fingerprint {found.fingerprint[:12]}"
    )


def _cluster(experiment: Experiment) -> str:
    with log_of_ray() as log_file:
        try:
            capacity = start_ray(experiment.cluster, log_file)
            listens = f"; Ray listens on {listening_address()}" if capacity.own else ""
        finally:
            stop_ray()
    check_capacity(experiment, capacity)
    warning = token_warning()
    return capacity.describe() + listens + (f"; WARNING: {warning}" if warning else "")

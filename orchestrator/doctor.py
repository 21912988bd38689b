"""Tries, one by one, everything that a run of an experiment would use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from orchestrator.experiment import Experiment


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: whether it works, and what was seen or what to do."""

    what: str
    ok: bool
    detail: str
    seconds: float


def diagnose(experiment: Experiment) -> Iterator[Finding]:
    """Storage, tracking, data, networks and cluster, each as soon as it is known; nothing is left behind."""
    checks: dict[str, Callable[[Experiment], str]] = {
        "storage": _storage,
        "tracking": _tracking,
        "data": _data,
        "cluster": _cluster,
    }
    for what, look in checks.items():
        from orchestrator.preflight import one_line

        began = time.perf_counter()
        try:
            detail, ok = look(experiment), True
        except Exception as error:  # a doctor reports whatever is wrong
            detail, ok = one_line(error), False
        yield Finding(what, ok, detail, time.perf_counter() - began)


def _storage(experiment: Experiment) -> str:
    from orchestrator.storage import open_storage
    from orchestrator.storage.preflight import check

    storage = open_storage(experiment.storage.uri, experiment.storage.endpoint_url)
    steps = check(storage)
    for step in steps:
        if step.error is not None:
            raise step.error
    warnings = "".join(f"; {step.warning}" for step in steps if step.warning)
    return f"{storage.uri()}: {', '.join(step.name for step in steps)}{warnings}"


def _tracking(experiment: Experiment) -> str:
    from orchestrator.tracking import check_tracking, redacted, resolve_tracking_uri

    uri = resolve_tracking_uri(experiment.tracking.uri, experiment.storage.uri)
    check_tracking(uri)
    return redacted(uri)


def _data(experiment: Experiment) -> str:
    from ekd_train.data import describe, load_dataset

    found = describe(load_dataset(experiment.data))
    return (
        f"{found['name']}: {found['train']} + {found['validation']} + {found['test']} images, "
        f"{found['num_classes']} classes, fingerprint {found['fingerprint'][:12]}"
    )


def _cluster(experiment: Experiment) -> str:
    from orchestrator.launch import start_ray, stop_ray
    from orchestrator.preflight import check_capacity

    try:
        capacity = start_ray(experiment.cluster, Path(gettempdir()) / "ekd-doctor" / "ray.log")
        check_capacity(experiment, capacity)
    finally:
        stop_ray()
    return capacity.describe()

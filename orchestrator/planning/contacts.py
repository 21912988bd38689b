"""Whom an experiment makes its commands talk to: read from its addresses, asked of nobody."""

import os

from ekd_train.data.hub import hub_name
from orchestrator.experiment.hosts import endpoint_of
from orchestrator.experiment.schema import Experiment
from orchestrator.runtime.address import wanted_address
from orchestrator.tracking import redacted, resolve_tracking_uri
from orchestrator.tracking.address import sqlite_file


def contacts(experiment: Experiment) -> str:
    """Hosts with the keys that lead to them, in words.

    >>> contacts(Experiment.model_validate({"name": "x", "tracking": {"uri": "https://mlflow.lan:5000/x"}}))
    'mlflow.lan:5000 (tracking.uri)'
    """
    kept, keys = experiment.storage, dict[str, list[str]]()
    store = _place(endpoint_of(kept.endpoint_url) or "AWS")
    tracking = resolve_tracking_uri(experiment.tracking.uri, kept.uri)
    cluster = wanted_address(experiment.cluster)
    hub = _place(os.environ.get("HF_ENDPOINT", "huggingface.co"))
    server = None if sqlite_file(tracking) else _place(tracking)
    named = {
        "storage.uri": store if kept.uri.startswith("s3:") else None,
        "data.root": store if (experiment.data.root or "").startswith("s3:") else None,
        "data.path": hub if hub_name(experiment.data) else None,
        "data.download": f"the mirrors of {experiment.data.name}" if experiment.data.download else None,
        "tracking.uri": server,
        "cluster.address": cluster and _place(cluster),
    }
    hubs = {"timm:": hub, "torchvision:": "download.pytorch.org", "s3:": store, "models:": server}
    starts = {f"teachers.{i}.weights": group.weights for i, group in enumerate(experiment.teachers)}
    starts["student.architecture.weights"] = experiment.student.architecture.weights
    for key, weights in starts.items():
        named[key] = hubs.get(f"{(weights or '').partition(':')[0]}:")
    for key, place in named.items():
        if place:
            keys.setdefault(place, []).append(key)
    return ", ".join(f"{place} ({', '.join(of)})" for place, of in keys.items()) or "no other host"


def _place(address: str) -> str:
    """Host and port, without credentials; of whatever text."""
    shown = redacted(address)
    return (shown.partition("://")[2] or shown).partition("/")[0].rpartition("@")[2] or shown

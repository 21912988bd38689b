"""Whom an experiment makes its commands talk to: read from its addresses, asked of nobody."""

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
    named = {
        "storage.uri": store if kept.uri.startswith("s3:") else None,
        "data.root": store if (experiment.data.root or "").startswith("s3:") else None,
        "data.download": f"the mirrors of {experiment.data.name}" if experiment.data.download else None,
        "tracking.uri": None if sqlite_file(tracking) else _place(tracking),
        "cluster.address": cluster and _place(cluster),
    }
    for key, place in named.items():
        if place:
            keys.setdefault(place, []).append(key)
    return ", ".join(f"{place} ({', '.join(of)})" for place, of in keys.items()) or "no other host"


def _place(address: str) -> str:
    """Host and port, without credentials; of whatever text."""
    shown = redacted(address)
    return (shown.partition("://")[2] or shown).partition("/")[0].rpartition("@")[2] or shown

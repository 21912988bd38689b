"""What an experiment needs so that another machine can run it."""

import re
from pathlib import Path

from orchestrator.experiment.schema import Experiment


def why_not_elsewhere(experiment: Experiment) -> str | None:
    """Why an experiment that could run here would lose its results on a cluster; None if it would not."""
    uri = experiment.storage.uri
    if "://" not in uri and not Path(uri).is_absolute():
        return (
            f"storage.uri is {uri!r}, a folder relative to a job's temporary directory, which is deleted "
            "with the job; use s3://bucket/prefix, or the absolute path of a folder that all hosts mount"
        )
    if experiment.tracking.uri is None:
        return (
            "tracking.uri is not set, and a job would keep its records in a temporary file; set tracking.uri"
        )
    if re.match(r"sqlite(\+\w+)?:///(?!/)|file:(?!//)", experiment.tracking.uri):
        return (
            f"tracking.uri is {experiment.tracking.uri!r}, a file relative to a job's temporary directory, "
            "which is deleted with the job; use an MLflow server's address"
        )
    root = experiment.data.root
    if root is not None and not root.startswith("s3://") and not Path(root).is_absolute():
        return (
            f"data.root is {root!r}, a folder relative to a job's temporary directory; use "
            "s3://bucket/prefix, or the absolute path of a folder that the cluster's head has"
        )
    for holder in (*experiment.teachers, experiment.student.architecture):
        weights = holder.weights
        if weights is not None and ":" not in weights and not Path(weights).is_absolute():
            return (
                f"weights is {weights!r}, a file relative to a job's temporary directory; use "
                "s3://bucket/key, or the absolute path of a file that the cluster's head has"
            )
    return None

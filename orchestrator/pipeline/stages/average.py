"""Average the student's subnetworks into one plain network."""

from __future__ import annotations

from typing import Any

from torch import nn

from ekd_train.models.build_network import averaged, build_plain
from ekd_train.persistence.checkpoint import DamagedCheckpoint
from ekd_train.persistence.networks import load_network, load_weights, save_network
from orchestrator.pipeline.run_context import RunContext
from orchestrator.registry import weights_sha256


def average(context: RunContext) -> dict[str, Any]:
    """Load the student, average it, store the plain network: `networks/averaged`."""
    checked = context.checked
    student = load_network(checked.storage, checked.experiment.student_run(), checked.description)
    plain = averaged(student)
    made = {"identity": context.manifest.content["result_hash"], "averaged_from": "student"}
    save_network(checked.storage, "averaged", plain, made)
    return {"network": "networks/averaged", "weights_sha256": weights_sha256(plain)}


def averaged_student(context: RunContext) -> nn.Module:
    """The averaged student from storage; averaged again if its file is missing or damaged."""
    checked = context.checked
    keys = ("num_classes", "image_shape", "mean", "std")
    described = {key: checked.description[key] for key in keys}
    plain = build_plain(checked.experiment.student.architecture, **described)
    try:
        return load_weights(checked.storage, "averaged", plain)
    except (DamagedCheckpoint, LookupError) as error:
        context.view.warn(f"{error}; the student is averaged again")
        context.wait([checked.experiment.student_run()])  # found whole, or trained again
        average(context)
        return load_weights(checked.storage, "averaged", plain)

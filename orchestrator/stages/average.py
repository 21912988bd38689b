"""Average the student's subnetworks into one plain network."""

from __future__ import annotations

from typing import Any

from orchestrator.context import Context


def average(context: Context) -> dict[str, Any]:
    """Load the student, average it, store the plain network: `networks/averaged`."""
    from ekd_train.networks import load_network, save_network
    from ekd_train.trainee import averaged
    from orchestrator.registry import weights_sha256

    checked = context.checked
    student = load_network(checked.storage, checked.experiment.student_run(), checked.description)
    plain = averaged(student)
    made = {"identity": context.manifest.content["result_hash"], "averaged_from": "student"}
    save_network(checked.storage, "averaged", plain, made)
    return {"network": "networks/averaged", "weights_sha256": weights_sha256(plain)}

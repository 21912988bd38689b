"""Average the student's subnetworks into one plain network."""

import torch
from torch import nn

from ekd_train.models.build_network import averaged, build_plain
from ekd_train.persistence.checkpoint import DamagedCheckpoint
from ekd_train.persistence.networks import AVERAGED, load_average, save_average
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import MemberWeighing
from orchestrator.pipeline.manifest_content import Averaged
from orchestrator.pipeline.run_context import RunContext
from orchestrator.registry.provenance import weights_sha256


def average(context: RunContext) -> Averaged:
    """Load the student, average it, store the plain network: `networks/averaged`."""
    return _averaged(context, _picked(context))


def _averaged(context: RunContext, weights: tuple[float, ...]) -> Averaged:
    checked = context.checked
    student = context.networks.load(checked.experiment.student_run())
    plain = averaged(student, torch.tensor(weights) if weights else None)
    record = NetworkRecord(
        identity=context.manifest.content.result_hash, averaged_from="student", member_weights=weights
    )
    save_average(checked.storage, plain, record)
    return Averaged(network=AVERAGED, weights_sha256=weights_sha256(plain), member_weights=weights)


def _picked(context: RunContext) -> tuple[float, ...]:
    """How much each member counts, found by a worker group; empty: they count alike."""
    experiment = context.checked.experiment
    if experiment.student.average == "mean" or experiment.student.method == "kd":
        return ()
    (found,) = context.wait([MemberWeighing(student=experiment.student_run())])
    weights: tuple[float, ...] = found.member_weights or ()
    return weights if len(set(weights)) > 1 else ()


def averaged_student(context: RunContext) -> nn.Module:
    """The averaged student from storage; averaged again, as it was, if its file is missing or damaged."""
    checked = context.checked
    plain = build_plain(checked.experiment.student.architecture, checked.description)
    try:
        return load_average(checked.storage, plain)
    except (DamagedCheckpoint, LookupError) as error:
        context.view.warn(f"{error}; the student is averaged again")
        context.wait([checked.experiment.student_run()])  # found whole, or trained again
        # As it was: other hosts may round otherwise, and the card tells these weights.
        _averaged(context, context.manifest.content.averaged.member_weights)
        return load_average(checked.storage, plain)

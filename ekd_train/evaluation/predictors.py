"""The named predictors of a finished run, from its store."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ekd_train.models.build_network import averaged, build_plain
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.networks import Networks, load_average
from ekd_train.settings import TrainingRun


@dataclass(frozen=True)
class Predictors:
    """Everything that a run trained, in evaluation mode."""

    named: dict[str, nn.Module]
    """`control`, further ones as `control/papa`, `teacher/0`, ..., `ensemble`, `members` (of a student that
    has some), `averaged`."""
    teachers: list[nn.Module]
    student: nn.Module
    """As it was trained; the same as `members`, or plain."""


def load_predictors(
    networks: Networks,
    control: TrainingRun,
    student: TrainingRun,
    device: torch.device,
    controls: Sequence[TrainingRun] = (),
) -> Predictors:
    """Build the networks of a run, and fill in the stored weights; of further `controls` their averages.

    Raises `DamagedCheckpoint` where these are not the bytes that were stored, `LookupError` where there are
    none.
    """

    def load(run: TrainingRun) -> nn.Module:
        return networks.load(run).to(device)

    named: dict[str, nn.Module] = {"control": load(control)}
    named |= {run.name.replace("-", "/"): averaged(load(run)) for run in controls}
    teachers = [load(run) for run in student.teachers]
    named |= {f"teacher/{i}": teacher for i, teacher in enumerate(teachers)}
    named["ensemble"] = Teachers(teachers)
    trained = load(student)
    if isinstance(trained, Subnetworks):
        named["members"] = trained
    plain = build_plain(student.architecture, networks.data)
    named["averaged"] = load_average(networks.run, plain).to(device)
    return Predictors(named, teachers, trained)

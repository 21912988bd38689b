"""A job on its way to a worker group; imports no torch, for the job queue's sake."""

from dataclasses import dataclass

from ekd_train.settings import Evaluation, MemberWeighing, TrainingRun, TrialStep

Job = TrainingRun | MemberWeighing | Evaluation | TrialStep
"""What a worker group can be asked to do."""


@dataclass(frozen=True)
class Assignment:
    """One job for one worker group; `serial` tells it from every other assignment."""

    serial: int
    job: Job

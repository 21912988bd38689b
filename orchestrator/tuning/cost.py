"""What training a trial's student costs, and how long it is expected to take."""

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean
from typing import Any

from ekd_train.data.description import DataDescription
from ekd_train.persistence.networks import Networks
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.estimate import Training
from orchestrator.planning.effort import efforts
from orchestrator.planning.plan import Sizes, training_work
from orchestrator.tuning.pool import baseline_values, trial_experiment, trial_runs
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.schedulers import stopping
from orchestrator.tuning.trial_store import TrialRecord, trial_name

SAMPLE, STEPS = 32, 5
"""Points of a space, with so many values of a range, whose mean a trial of unknown values is taken to be."""


def trial_cost(pool: Experiment, values: Mapping[str, Any]) -> float:
    """Forward-pass equivalents of training the student in full, for each image of the training split."""
    return training_work(trial_experiment(pool, values).student_run())


def trial_epochs(pool: Experiment, values: Mapping[str, Any]) -> int:
    """Epochs of training the student in full."""
    return trial_experiment(pool, values).student_run().epochs


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to train, for the estimate of the time left."""

    pool: Experiment
    request: SearchRequest
    description: DataDescription
    networks: Networks
    """Where a trial may find what others have trained."""
    sizes: Sizes = field(default_factory=dict)
    """Of networks counted so far."""

    def trials(self, known: Mapping[int, TrialRecord]) -> list[Training]:
        """All of the search; `known`: those of which the values are, beside trial 0's."""
        values = {number: record.values for number, record in known.items()}
        first = baseline_values(self.pool, self.request.space.domains, self.request.baseline)
        expected = [self.trial(n, ({0: first} | values).get(n)) for n in range(self.request.trials)]
        for number, record in known.items():
            if record.ended and number < len(expected):
                expected[number].status = "done"
        return expected

    def trial(self, number: int, values: Mapping[str, Any] | None = None) -> Training:
        """One that begins; `values`: None while nobody has suggested any. What is stored takes no time."""
        left = self.request.seeds
        if values is None:
            effort = self._mean_effort
        else:
            effort, runs = self._effort(values), trial_runs(self.pool, values, self.request.seeds)
            left = sum(self.networks.find(run) is None for run in runs)
        epochs = trial_epochs(self.pool, values or {})
        return Training(
            trial_name(number),
            epochs,
            left * effort,
            tuple(run.name for run in self.pool.teacher_runs()),
            self._until(number, epochs),
            trial=True,
        )

    def until(self, record: TrialRecord, others: Iterable[TrialRecord]) -> float:
        """The fraction at which a trial is expected to end, by what it and others have reported.

        Its score can only rise: where ASHA would let it pass with that of now, it will.
        """
        sure, stops = [], stopping(self.request, self.pool)
        for rung in stops.rungs if stops.scheduler == "asha" else ():
            there = [_score_at(other, rung) for other in others if other.number != record.number]
            scores = [score for score in there if score is not None]
            if scores and record.quality[0] >= stops.cut(scores):
                sure.append(rung)
        return self._until(record.number, trial_epochs(self.pool, record.values), record.epochs, sure)

    @cached_property
    def _mean_effort(self) -> float:
        """Of random points of the space."""
        draw, domains = random.Random(0), self.request.space.domains.items()
        points = ({key: draw.choice(domain.points(STEPS)) for key, domain in domains} for _ in range(SAMPLE))
        return mean(map(self._effort, points))

    def _effort(self, values: Mapping[str, Any]) -> float:
        """Of one network."""
        return efforts(trial_experiment(self.pool, values), self.description, self.sizes)["student"]

    def _until(self, number: int, epochs: int, trained: int = 0, sure: Collection[float] = ()) -> float:
        return min(1.0, stopping(self.request, self.pool).expected_end(number, trained, sure) / epochs)


def _score_at(record: TrialRecord, rung: float) -> float | None:
    """What a trial had when it came to a rung; None: it has not yet."""
    return next((each["score"] for each in record.history if each["epoch"] >= rung), None)

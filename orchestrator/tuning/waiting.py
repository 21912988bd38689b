"""HyperBand and population-based training for Tune: trials pause until their cohort has come as far.

Ray has schedulers of both names. They are not used, because of what they do when trials arrive one
at a time or die (Ray 2.60): `HyperBandScheduler` counts a bracket's live trials to know whether it
is full, so that one whose trials end never is, and all trials train in full in the first; it does
not look at a bracket again that lost a trial after its first halving, so that the rest wait for
ever. `PopulationBasedTraining` refuses search algorithms, and with them what knows the trials of
an earlier start. A limit on concurrent trials counts the paused ones, so that all wait: here a
limit counts those that train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.tuning.cohorts import Cohort
from orchestrator.tuning.schedulers import SCORE, TIME

AT_WORK = (Trial.PENDING, Trial.RUNNING)


class Waiting(FIFOScheduler):
    """Pauses trials at the stops of their cohorts, and acts on what is decided when all have come.

    Args:
        cohorts: every trial is in one at most.
        decide: given a cohort that is complete, leaves its stop behind; the numbers of the trials
            to be stopped, and the new configurations of those that go on otherwise.
        at_once: trials that train side by side.
    """

    _supports_buffered_results = False

    def __init__(
        self,
        cohorts: list[Cohort],
        decide: Callable[[Cohort], tuple[list[int], dict[int, dict[str, Any]]]],
        at_once: int,
    ) -> None:
        super().__init__()
        self.cohorts, self.decide, self.at_once = cohorts, decide, at_once
        self.trials: dict[int, Any] = {}
        self.ready: set[int] = set()
        """Paused, and free to go on."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune stores a copy of all that it is given, for a resume that is not used here."""
        return object, ()

    @property
    def over(self) -> bool:
        """Whether no trial is left."""
        return not any(cohort.members for cohort in self.cohorts)

    @property
    def room(self) -> bool:
        """Whether a new trial may begin; those that wait to go on are first."""
        waiting = sum(self.trials[number].status == Trial.PAUSED for number in self.ready)
        return self._at_work() + waiting < self.at_once

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is there, or there again after its process was lost."""
        self.trials[trial.config["number"]] = trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether it goes on or has to wait."""
        self.ready.discard(trial.config["number"])
        return TrialScheduler.PAUSE if self._arrives(trial, result) else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """It has ended by itself, perhaps in an earlier start, at the stop where it was halved away."""
        self._arrives(trial, result)
        self._leaves(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """It was stopped while it waited."""
        self._leaves(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Its process was lost. If it is started again, its status is `ERROR` already."""
        if trial.status != Trial.ERROR:
            self._leaves(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Asked all the time: decides what can be decided, then names the next trial to go on."""
        for cohort in self.cohorts:
            if cohort.complete and all(self.trials[n].status == Trial.PAUSED for n in cohort.members):
                self._decide(tune_controller, cohort)
        for number in sorted(self.ready):
            trial = self.trials[number]
            if trial.status == Trial.PAUSED and self._at_work() < self.at_once:
                return trial
        return next((t for t in self.trials.values() if t.status == Trial.PENDING), None)

    def debug_string(self) -> str:
        """For Tune's own log."""
        waiting = sum(len(cohort.scores) for cohort in self.cohorts)
        return f"{len(self.trials)} trials, {waiting} waiting for others"

    def _decide(self, tune_controller: Any, cohort: Cohort) -> None:
        stopped, changed = self.decide(cohort)
        for number in stopped:
            tune_controller.stop_trial(self.trials[number])
        for number, config in changed.items():
            self.trials[number].set_config(config)
        self.ready |= cohort.members

    def _arrives(self, trial: Any, result: dict[str, Any]) -> bool:
        number = trial.config["number"]
        return TIME in result and any(c.arrives(number, result[TIME], result[SCORE]) for c in self.cohorts)

    def _leaves(self, trial: Any) -> None:
        number = trial.config["number"]
        self.ready.discard(number)
        for cohort in self.cohorts:
            cohort.leaves(number)

    def _at_work(self) -> int:
        return sum(trial.status in AT_WORK for trial in self.trials.values())

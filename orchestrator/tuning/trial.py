"""A trial as Ray Tune runs it: one step is one validated epoch.

With one worker a trial trains here, in the trial's own process, which is reused for the next
trial: data and teachers are in place, only a network is built. With several workers it has a
worker pool of its own, which outlives the trial in the same way. Either way nothing trains
ahead of Tune's decision, so a trial that is stopped costs nothing more. Tune keeps no
checkpoints: a trial whose process was lost begins again and continues from its own.
"""

from collections import deque
from typing import Any

from ray import tune

from ekd_train.settings import TrialStep
from orchestrator.experiment.schema import build_experiment
from orchestrator.runtime.retry import failure_kind, out_of_memory
from orchestrator.tuning.pool import trial_runs
from orchestrator.tuning.schedulers import SCORE, TIME
from orchestrator.tuning.trial_executor import TrialFailed, TrialSetup
from orchestrator.tuning.trial_store import find_trial, trial_name


class Trial(tune.Trainable):
    """Ray's side of a trial; `config` holds its `number` and `values`."""

    def setup(self, config: dict[str, Any], trial_setup: TrialSetup | None = None) -> None:
        """Open the executor of this process, then begin the first trial."""
        assert trial_setup is not None
        self.trial_setup = trial_setup
        self.pool = build_experiment(trial_setup.pool)
        self.reporter = trial_setup.reporter
        here = self.pool.cluster.most_workers == 1
        self.reporter.attend(trial_name(config["number"]), here=here)
        self.executor = trial_setup.open_executor(trial_setup)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process; always true."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Report one validated epoch: trained now, or known from an earlier start of the search."""
        if self.known:
            record = self.known.popleft()
            return self._report(record, done=not self.known)
        if self.ended is not None:  # it failed before it reported anything
            return {"done": True, "failure": self.ended.error or "it had ended without a result"}
        try:
            record = self.executor.step(TrialStep(name=self.name, runs=self.runs, after=self.epoch))
        except Exception as error:
            if failure_kind(error) == "hopeless" and not out_of_memory(error):
                return {"done": True, "failure": _reason(error)}
            raise
        return self._report(record, done=bool(record["finished"]))

    def cleanup(self) -> None:
        """Close the executor; the process ends."""
        self.executor.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.name = trial_name(config["number"])
        self.reporter.about(self.name)
        found = find_trial(self.trial_setup.storage, config["number"])
        self.ended = found if found is not None and found.ended else None
        self.known = deque(self.ended.history if self.ended else ())
        self.runs = trial_runs(self.pool, config["values"], self.trial_setup.seeds)
        self.epoch = 0

    def _report(self, record: dict[str, float], done: bool) -> dict[str, Any]:
        self.epoch = int(record["epoch"])
        return {TIME: self.epoch, SCORE: record["score"], "done": done, "record": record}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, TrialFailed) else f"{type(error).__name__}: {text}"

"""A trial as Ray Tune runs it: one step is one validated epoch.

With one worker a trial trains here, in the trial's own process, which is reused for the next
trial: data and teachers are in place, only a network is built. With several workers it has a
worker group of its own, which outlives the trial in the same way. Either way nothing trains
ahead of Tune's decision, so a trial that is stopped costs nothing more.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from ray import tune

from ekd_train.settings import TrialStep
from orchestrator.experiment import build_experiment
from orchestrator.failure import failure_kind
from orchestrator.tuning.ledger import TrialRecord, find_trial, trial_name
from orchestrator.tuning.pool import trial_experiment
from orchestrator.tuning.schedulers import SCORE, TIME
from orchestrator.tuning.workshops import TrialFailed, TrialPost

POINTER = "trial.json"


class Trial(tune.Trainable):
    """Ray's side of a trial; `config` holds `number` and `values`."""

    def setup(self, config: dict[str, Any], post: TrialPost | None = None) -> None:
        """The process begins: with data and teachers, then the first trial."""
        assert post is not None
        self.post = post
        self.pool = build_experiment(post.pool)
        self.workshop = post.open_workshop(post)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One validated epoch: trained, or reported again if an earlier start had it."""
        if self.told:
            record = self.told.popleft()
            return self._report(record, done=not self.told)
        if self.ended is not None:  # it failed before it reported anything
            return {"done": True, "failure": self.ended.error or "it had ended without a result"}
        try:
            record = self.workshop.step(self._next_step())
        except Exception as error:
            if failure_kind(error) == "hopeless":
                return {"done": True, "failure": _reason(error)}
            raise
        return self._report(record, done=bool(record["finished"]))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Store the trial in the run's storage; Tune gets a pointer to it."""
        step = self._next_step()
        self.workshop.save(step)
        (Path(checkpoint_dir) / POINTER).write_text(step.model_dump_json())

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on where the pointer says; if it is another trial's (PBT), with its networks."""
        donor = TrialStep.model_validate_json((Path(checkpoint) / POINTER).read_text())
        if donor.name != self.name:
            self.workshop.clone(self._next_step(), donor)
        self.epoch = donor.after
        self.told.clear()

    def cleanup(self) -> None:
        """The process ends."""
        self.workshop.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.name = trial_name(config["number"])
        known = find_trial(self.post.store, config["number"])
        self.ended: TrialRecord | None = known if known is not None and known.ended else None
        self.told = deque(self.ended.history if self.ended else ())
        run = trial_experiment(self.pool, config["values"]).student_run()
        self.runs = tuple(run.model_copy(update={"seed": run.seed + seed}) for seed in range(self.post.seeds))
        self.epoch = 0

    def _next_step(self) -> TrialStep:
        return TrialStep(name=self.name, runs=self.runs, after=self.epoch)

    def _report(self, record: dict[str, float], done: bool) -> dict[str, Any]:
        self.epoch = int(record["epoch"])
        return {TIME: self.epoch, SCORE: record["score"], "done": done, "record": record}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, TrialFailed) else f"{type(error).__name__}: {text}"

"""A trial as Ray Tune runs it: one step is one validated epoch.

With one worker a trial trains here, in the trial's own process, which is reused for the next
trial: data and teachers are in place, only a network is built. With several workers it has a
worker pool of its own, which outlives the trial in the same way. Either way nothing trains
ahead of Tune's decision, so a trial that is stopped costs nothing more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from ekd_train.settings import TrainingRun, TrialStep
from orchestrator.experiment.schema import build_experiment
from orchestrator.runtime.retry import failure_kind, out_of_memory
from orchestrator.tuning.ledger import TrialRecord, find_trial, trial_name
from orchestrator.tuning.pool import trial_experiment
from orchestrator.tuning.schedulers import SCORE, TIME
from orchestrator.tuning.workshops import TrialFailed, TrialPost

POINTER = "epoch"
"""In Tune's checkpoint: after which epoch the trial paused. Its networks are in the run's storage."""


class Trial(tune.Trainable):
    """Ray's side of a trial; `config` holds `number` and `values`.

    In a population (`orchestrator.tuning.population`) also `after`, the epoch that it goes on from, and
    `donor`, whose networks it had then.
    """

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
            self._adopt()
            record = self.workshop.step(self._next_step())
        except Exception as error:
            if failure_kind(error) == "hopeless" and not out_of_memory(error):
                return {"done": True, "failure": _reason(error)}
            raise
        return self._report(record, done=bool(record["finished"]))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The trial pauses: store it in the run's storage, and for Tune where it is."""
        if self.ended is None:
            self.workshop.save(self._next_step())
        (Path(checkpoint_dir) / POINTER).write_text(str(self.epoch))

    def restore(self, checkpoint_path: Any) -> None:
        """As Tune's own, which would also unpickle a file that somebody has put into the checkpoint."""
        self._iteration = checkpoint_path.metrics.get("training_iteration", 0)
        with checkpoint_path.checkpoint.as_directory() as folder:
            self.load_checkpoint(folder)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on where it paused."""
        self.epoch = int((Path(checkpoint) / POINTER).read_text())
        while self.told and self.told[0]["epoch"] <= self.epoch:
            self.told.popleft()

    def cleanup(self) -> None:
        """The process ends."""
        self.workshop.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.name = trial_name(config["number"])
        known = find_trial(self.post.store, config["number"])
        self.ended: TrialRecord | None = known if known is not None and known.ended else None
        self.told = deque(self.ended.history if self.ended else ())
        self.runs = self._runs(config["values"])
        self.epoch = config.get("after", 0)
        self.donor: TrialStep | None = None
        if (donor := config.get("donor")) is not None:
            runs = self._runs(donor["values"])
            self.donor = TrialStep(name=trial_name(donor["number"]), runs=runs, after=config["after"])

    def _next_step(self) -> TrialStep:
        return TrialStep(name=self.name, runs=self.runs, after=self.epoch)

    def _runs(self, values: Mapping[str, Any]) -> tuple[TrainingRun, ...]:
        run = trial_experiment(self.pool, values).student_run().sharing_predictions()
        return tuple(run.model_copy(update={"seed": run.seed + seed}) for seed in range(self.post.seeds))

    def _adopt(self) -> None:
        """Take the donor's networks, if the trial is where it was to take them."""
        if self.donor is not None and self.epoch == self.donor.after:
            self.workshop.clone(self._next_step(), self.donor)
            self.donor = None

    def _report(self, record: dict[str, float], done: bool) -> dict[str, Any]:
        self.epoch = int(record["epoch"])
        return {TIME: self.epoch, SCORE: record["score"], "done": done, "record": record}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, TrialFailed) else f"{type(error).__name__}: {text}"

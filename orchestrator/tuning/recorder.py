"""What the driver keeps of a search while it goes on: ledger, MLflow, and what a person sees."""

from __future__ import annotations

import time
from typing import Any

from ray import tune

from orchestrator.preflight import one_line
from orchestrator.tracking import RunStatus, Tracker
from orchestrator.tuning.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.tuning.proposals import Proposer
from orchestrator.view import View

MLFLOW_STATUS: dict[TrialStatus, RunStatus] = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "out_of_time": "KILLED",
}


class Recorder(tune.Callback):
    """Tune calls it from the driver's loop, one event at a time."""

    def __init__(
        self, ledger: Ledger, proposer: Proposer, tracker: Tracker | None, view: View, total: int
    ) -> None:
        self.ledger, self.proposer, self.tracker, self.view = ledger, proposer, tracker, view
        self.total = total
        self.runs: dict[int, str] = {}
        self.kept = {number for number, record in ledger.trials.items() if record.ended}
        """Ended in an earlier start: what they report now is only told again."""
        self.began: dict[int, float] = {}
        for number in sorted(self.kept):
            proposer.observe(ledger.trials[number])

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune stores a copy of all that it is given, for a resume that is not used here."""
        return object, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on in another process."""
        if (record := self._record(trial)) is not None:
            self.began[record.number] = time.monotonic()
            self._open_run(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One validated epoch."""
        if (record := self._record(trial)) is None or "record" not in result:
            return
        values = dict(result["record"])
        record.history = [*(r for r in record.history if r["epoch"] < values["epoch"]), values]
        if trial.config["values"] != record.values:  # PBT has changed them
            record.values = dict(trial.config["values"])
            self.ledger.save(record)
        if self.tracker is not None:
            shown = {k: v for k, v in values.items() if k not in ("epoch", "finished")}
            self.tracker.log_metrics(self._open_run(record), shown, int(values["epoch"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended by itself or was stopped."""
        if (record := self._record(trial)) is None:
            return
        failure = (trial.last_result or {}).get("failure")
        if failure is not None:
            self._end(record, "failed", failure)
        else:
            self._end(record, "completed" if record.last.get("finished") else "pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed more often than it may."""
        if (record := self._record(trial)) is not None:
            self._end(record, "failed", _reason(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process was lost; it is started again."""
        if (record := self._record(trial)) is not None:
            self.view.warn(f"{record.name}: {_reason(trial)}; it continues from its last checkpoint")

    def out_of_time(self) -> None:
        """The time is over: what had begun stands as it is."""
        for record in self.ledger.trials.values():
            if record.status == "proposed":
                self._end(record, "out_of_time")

    def _end(self, record: TrialRecord, status: TrialStatus, error: str | None = None) -> None:
        record.seconds += time.monotonic() - self.began.pop(record.number, time.monotonic())
        if self.tracker is not None:  # before the ledger: what it calls ended is in MLflow's journal
            run = self._open_run(record)
            tags = {"ekd.trial.status": status, "ekd.trial.epochs": str(record.epochs)}
            self.tracker.set_tags(run, tags | ({"ekd.trial.error": error} if error else {}))
            self.tracker.finish(run, MLFLOW_STATUS[status])
        self.ledger.end(record, status, error)
        if record.number not in self.kept:
            self.proposer.observe(record)
        score = f", validation accuracy {100 * record.quality[0]:.2f} %" if record.history else ""
        reason = f": {error}" if error else ""
        ended = sum(r.ended for r in self.ledger.trials.values())
        self.view.say(
            f"{record.name} ({ended} of {self.total}): {status} after epoch {record.epochs}{score}{reason}"
        )

    def _record(self, trial: Any) -> TrialRecord | None:
        """The record of a trial, unless it is only told again."""
        number = trial.config["number"]
        return None if number in self.kept else self.ledger.trials[number]

    def _open_run(self, record: TrialRecord) -> str:
        if self.tracker is None:
            return ""
        if record.number not in self.runs:
            run = self.tracker.child(record.name, None, {"ekd.trial": str(record.number)})
            self.tracker.log_params(run, record.values)
            self.runs[record.number] = run
        return self.runs[record.number]


def _reason(trial: Any) -> str:
    error = trial.get_error()
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {one_line(cause)[-300:]}" if cause is not None else "unknown reason"

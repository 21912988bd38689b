"""What the driver keeps of a search while it goes on: the trial store, MLflow, and what a person sees."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune

from ekd_train.persistence.checkpoint import DamagedCheckpoint, load_typed
from ekd_train.persistence.records import NetworkRecord
from ekd_train.workers.trial_runner import checkpoint_prefix
from orchestrator.pipeline.estimate import Training
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.projection import shown_of_trial, trial_state
from orchestrator.runtime.event import Advanced, Done, Event, Started, Validated, Warned
from orchestrator.tracking import Tracker
from orchestrator.tuning.searchers import Searcher
from orchestrator.tuning.table import in_words, standing
from orchestrator.tuning.trial_store import TrialRecord, TrialStatus, TrialStore, trial_name
from orchestrator.tuning.trial_watch import TrialWatch

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class SearchCallback(tune.Callback):
    """Tune calls it from the driver's loop, one event at a time.

    Args:
        total: trials of the search.
        at_once: trials side by side.
        before_event: called before each; what it raises ends the search.
        while_idle: called again and again while fewer trials are left than could train side by side.
        after_trial: called when a trial has ended and is written down.
        expected: how long a trial that begins will take, for the estimate of the time left.
        until: the fraction at which a trial is expected to end, by what it has reported.
        watch: over the trials' processes; None: nobody hears of them.
    """

    def __init__(
        self,
        store: TrialStore,
        searcher: Searcher,
        tracker: Tracker | None,
        view: View,
        total: int,
        at_once: int = 1,
        before_event: Callable[[], None] = lambda: None,
        after_trial: Callable[[], None] = lambda: None,
        while_idle: Callable[[], None] = lambda: None,
        expected: Callable[[TrialRecord], Training | None] = lambda record: None,
        until: Callable[[TrialRecord], float] = lambda record: 1.0,
        watch: TrialWatch | None = None,
    ) -> None:
        self.store, self.searcher, self.tracker, self.view = store, searcher, tracker, view
        self.total, self.at_once = total, at_once
        self.before_event, self.after_trial, self.while_idle = before_event, after_trial, while_idle
        self.expected, self.until, self.watch = expected, until, watch
        self.kept = {number for number, record in store.trials.items() if record.ended}
        """Ended in an earlier start: they report what is known already, for the scheduler."""
        self.training: set[int] = set()
        self._said = time.monotonic()
        for number in sorted(self.kept):
            searcher.observe(store.trials[number])
            view.show(Done(run=store.trials[number].name, record={}))

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune stores a copy of all that it is given, for a resume that is not used here."""
        return object, ()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Another event: whatever is written next is written after this."""
        self.before_event()
        if self.watch is not None:
            for event in self.watch.look(trials):
                self._hear(event)
        if len(trials) == self.total and sum(not trial.is_finished() for trial in trials) < self.at_once:
            self.while_idle()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on in another process."""
        if (record := self._record(trial)) is not None:
            self.training.add(record.number)
            self._show(record)
            if expected := self.expected(record):
                self.view.expect(expected, bar=False)
            self.view.show(Started(run=record.name, epoch=record.epochs))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One validated epoch."""
        if (record := self._record(trial)) is None or "record" not in result:
            return
        values = dict(result["record"])
        before = (r for r in record.history if r["epoch"] < values["epoch"])
        trained_before = record.seconds
        seconds = values.pop("seconds", 0.0)  # no history: another start of the same would have another
        record = self.store.change(record, history=(*before, values), seconds=seconds)
        if run := self.view.runs.get(record.name):
            run.until = self.until(record)
            if seconds == trained_before:  # an epoch that was stored says nothing of the pace
                run.began = 0.0
        self.view.show(Validated(run=record.name, record=values))
        self._progress()
        if self.tracker is not None:
            shown = shown_of_trial(values)
            self.tracker.log_metrics(record.name, shown, int(shown.pop("epoch")))

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
            self._end(record, "failed", self._ended_for(record) or _reason(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process was lost; it is started again."""
        if (record := self._record(trial)) is not None and not self._ended_for(record):
            self.view.warn(f"{record.name}: {_reason(trial)}; it continues from its last checkpoint")

    def out_of_time(self) -> None:
        """The time is over: what had begun stands as it is."""
        for record in list(self.store.trials.values()):
            if record.status == "proposed":
                self._end(record, "out_of_time")

    def _hear(self, event: Event) -> None:
        """What a trial's process has told, or what is said of it; epochs are told by Tune."""
        match event:
            case Warned(run=run, message=message):
                named = not run or message.startswith(f"{run}: ")
                self.view.warn(message if named else f"{run}: {message}")
            case Advanced():
                self.view.show(event)

    def _ended_for(self, record: TrialRecord) -> str | None:
        """Why the watch has ended the trial's process, which it has said; None: it has not."""
        return self.watch.take_reason(record.name) if self.watch is not None else None

    def _end(self, record: TrialRecord, status: TrialStatus, error: str | None = None) -> None:
        self.training.discard(record.number)
        changes: dict[str, Any] = {"error": error, "ended_at": time.time()}
        changes["reused_from"] = self._reused_from(record)
        record = self.store.end(record, status, **changes)
        self._show(record)
        self.view.show(Done(run=record.name, record={}))
        if record.number not in self.kept:
            self.searcher.observe(record)
        self.after_trial()
        score = f", validation accuracy {100 * record.quality[0]:.2f} %" if record.history else ""
        reason = f": {error}" if error else ""
        self.view.say(
            f"{record.name}: {in_words(record)}{score}{reason}; "
            + "; ".join(filter(None, (standing(self.store.trials, self.total), self.view.all_left())))
        )

    def _reused_from(self, record: TrialRecord) -> tuple[str, ...]:
        """`TrialRecord.reused_from`, from what the trial's process has noted of its networks."""
        found, own = [], f"{self.view.run_id}/{record.name}"
        for seed in range(record.seeds):
            key = f"{checkpoint_prefix(record.name, seed)}/network.json"
            with suppress(LookupError, DamagedCheckpoint):
                found.append(load_typed(self.store.storage, key, NetworkRecord).reused_by(own))
        return tuple(filter(None, found))

    def _progress(self) -> None:
        """In a log, now and then: how the search stands, and how far the trials are that train."""
        now = time.monotonic()
        if self.view.disable and now - self._said >= self.view.apart:
            self._said = now
            names = [name for number in self.training if (name := trial_name(number)) in self.view.runs]
            told = (f"{name} {self.view.told(name)}" for name in names)
            self.view.say("; ".join((standing(self.store.trials, self.total), *told, self.view.all_left())))

    def _record(self, trial: Any) -> TrialRecord | None:
        """The record of a trial; None for one that had ended in an earlier start."""
        number = trial.config["number"]
        return None if number in self.kept else self.store.trials[number]

    def _show(self, record: TrialRecord) -> None:
        if self.tracker is not None:
            self.tracker.show({record.name: trial_state(record)})


def _reason(trial: Any) -> str:
    """The newest failure in the file that Tune keeps of them on the driver's machine, in one line."""
    if trial.error_file is None or not (file := Path(trial.error_file)).exists():
        return "unknown reason"
    return last_failure(file.read_text(errors="replace"))


def last_failure(text: str) -> str:
    """What went wrong last, of the text that Tune writes: its exception, without traces and ids.

    >>> last_failure("Failure # 1 (occurred at x)\\nray::Trial.train()\\n  File y\\nOSError: gone\\n")
    'OSError: gone'
    """
    lines = COLOURS.sub("", text).rpartition("Failure # ")[2].splitlines()[1:]
    said = [line for line in lines if line and not line[0].isspace()]
    if said and said[0].startswith("ray::"):
        said = said[-1:]
    return " ".join(" ".join(said).split())[:300] or "unknown reason"

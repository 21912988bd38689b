"""What the driver of a search hears of its trials' processes, and what it does about silent ones."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from ekd_train.waiting import Wait
from ekd_train.workers.sign import EVERY_S, Sign
from orchestrator.experiment.infrastructure import LivenessSettings
from orchestrator.runtime.event import Event, Warned
from orchestrator.runtime.job_queue import News, open_job_queue
from orchestrator.runtime.liveness import IN_VAIN, Silence, Watch, verdict
from orchestrator.runtime.worker_pool import has_ended, kill
from orchestrator.tuning.trial_reporter import TrialReporter
from orchestrator.tuning.trial_store import trial_name

PATIENCE_S = 1.0
"""How long the queue may keep a question, to answer it with something new; Tune's loop does not wait."""

COMING_S = 60.0
"""A trial's process usually needs a quarter of it to come up: to import torch, and to place data."""

SIGNS_BEFORE_A_WORD = 3
"""Signs that may be late or lost before a trial is called silent."""


class TrialWatch:
    """Asks for news whenever Tune's loop comes round, says which trials are silent, and ends their processes.

    What has ended is Tune's to start again, as often as a trial may fail.
    """

    def __init__(self, settings: LivenessSettings) -> None:
        self.queue = open_job_queue()
        self.settings = settings
        self.ended_for: dict[str, str] = {}
        """Why the process of a trial was ended, by name, until `take_reason`."""
        self._watch = Watch(settings)
        self._of_queue = Watch(settings)
        """Apart: while the queue does not answer, nothing can be heard of the trials."""
        self._asked: Any = None
        self._answered = 0.0
        self._coming: dict[str, Wait] = {}
        """Of trials that have no process yet, or one that has not come up."""
        self._ended: set[tuple[int, int]] = set()
        """Rank and process id of processes that have ended: the queue keeps their last signs."""

    def reporter(self) -> TrialReporter:
        """What a trial's process reports to."""
        return TrialReporter(self.queue, min(EVERY_S, self.settings.said_after_s / SIGNS_BEFORE_A_WORD))

    def look(self, trials: Sequence[Any]) -> list[Event]:
        """What is new, without waiting; `trials`: Tune's, all that it knows."""
        now = self._of_queue.tick()
        self._wait_for([trial_name(t.config["number"]) for t in trials if t.status == "PENDING"])
        if self._asked is None:
            self._asked = self.queue.news.remote(PATIENCE_S)
        if not ray.wait([self._asked], timeout=0)[0]:
            return self._unanswered(now)
        asked, self._asked = self._asked, None
        try:
            news: News = ray.get(asked)
        except RayError:  # Ray starts it again; and a search does not end for what only watches it
            return self._unanswered(now)
        self._answered = now
        signs = [sign for sign in news.signs if _key(sign) not in self._ended]
        return list(news.events) + self._heed(self._watch.look(signs), trials)

    def take_reason(self, trial: str) -> str | None:
        """Why the process of `trial` was ended here; None if it was not, or that was asked before."""
        return self.ended_for.pop(trial, None)

    def close(self) -> None:
        """No trial trains any more."""
        kill(self.queue)

    def _wait_for(self, coming: list[str]) -> None:
        """Say now and then which trials do not begin."""
        self._coming = {
            name: self._coming.get(name) or Wait(partial(_wanted, name), COMING_S, self._watch.clock)
            for name in coming
        }
        for wait in self._coming.values():
            wait.look()

    def _unanswered(self, now: float) -> list[Event]:
        silent_s = now - self._answered
        if verdict(silent_s, 0.0, self.settings) != "lost":
            return []
        self._answered = now + self.settings.restart_after_s  # another has to start first
        kill(self.queue, again=True)
        return [
            Warned(
                run="",
                message=f"the process that trials report to has not answered for {silent_s:.0f} s: it is "
                "started again",
            )
        ]

    def _heed(self, silences: list[Silence], trials: Iterable[Any]) -> list[Event]:
        events: list[Event] = []
        for silence in silences:
            sign = silence.of
            if has_ended(sign):  # Tune hears of that by itself
                self._ended.add(_key(sign))
            elif silence.lost:
                self._ended.add(_key(sign))
                what = self._end(silence, _going_on(trials, sign.run))
                events.append(Warned(run=sign.run, message=f"{silence}: it is ended{what}"))
            else:
                events.append(Warned(run=sign.run, message=str(silence)))
        return events

    def _end(self, silence: Silence, trial: Any) -> str:
        """Have the process of `trial` killed, if it has one that goes on; what comes of the trial."""
        reason, what = f"{silence.what} for {silence.seconds:.0f} s", ""
        if trial is not None:
            what = ", and the trial goes on from its last checkpoint"
            if self._watch.in_vain(silence.of.run):
                reason += f"; it was started again {IN_VAIN} times in vain"
                what = f"; the trial was started again {IN_VAIN} times in vain, and fails"
                trial.max_failures = 0
            self.ended_for[silence.of.run] = reason
        kill(silence.of.actor)
        return what


def _wanted(trial: str) -> str:
    total, free = ray.cluster_resources().get("CPU", 0.0), ray.available_resources().get("CPU", 0.0)
    return f"a process for {trial} to come up; of {total:g} CPUs {free:g} are free, if it holds no others"


def _key(sign: Sign) -> tuple[int, int]:
    return sign.rank, sign.pid


def _going_on(trials: Iterable[Any], name: str) -> Any:
    """The trial of that name, unless it has ended and its process waits for another."""
    going_on = (trial for trial in trials if not trial.is_finished())
    return next((trial for trial in going_on if trial_name(trial.config["number"]) == name), None)

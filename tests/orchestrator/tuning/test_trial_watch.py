"""What the driver of a search makes of silence: real decisions, a queue and trials that are played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from ekd_train.workers.sign import EVERY_S
from orchestrator.experiment.infrastructure import LivenessSettings
from orchestrator.runtime import worker_pool
from orchestrator.runtime.event import Advanced, Event, Warned
from orchestrator.runtime.job_queue import News
from orchestrator.tuning import trial_reporter, trial_watch
from orchestrator.tuning.trial_reporter import TrialReporter, TrialSign
from orchestrator.tuning.trial_watch import TrialWatch


class Played:
    """Ray, as far as the watch asks it; the queue; and the process of every trial."""

    def __init__(self) -> None:
        self.time, self.answers, self.alive = 0.0, True, True
        self.events: list[Event] = []
        self.signs: dict[int, TrialSign] = {}
        self.silent: set[int] = set()
        self.killed: list[tuple[Any, bool]] = []
        self.news = SimpleNamespace(remote=lambda timeout_s: "news")
        self.__ray_ready__ = SimpleNamespace(remote=lambda: "ready")

    def wait(self, asked: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return (asked, []) if self.answers else ([], asked)

    def get(self, asked: Any, timeout: float | None = None) -> News:
        if asked == "ready":
            raise GetTimeoutError if self.alive else ActorUnavailableError("gone", b"0" * 16)
        events, self.events = self.events, []
        for number, sign in self.signs.items():
            if number not in self.silent:
                self.sign(number, sign.pid, sign.count + 1, sign.step)
        return News("queue", 7, "host", events, list(self.signs.values()))

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        self.killed.append((actor, no_restart))

    def sign(self, number: int, pid: int, count: int = 0, step: int | None = 3) -> None:
        """The process of a trial gives a sign; a process after another has another rank."""
        run = f"trial-{number:04d}"
        self.signs[number] = TrialSign(1000 * number + pid, "host", pid, self, count, run, step, 0.1)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    for module in (worker_pool, trial_watch, trial_reporter):
        monkeypatch.setattr(module, "ray", played)
    monkeypatch.setattr(trial_watch, "open_job_queue", lambda: played)
    return played


@pytest.fixture
def watch(ray: Played) -> TrialWatch:
    made = TrialWatch(LivenessSettings())
    made._watch.clock = made._of_queue.clock = lambda: ray.time
    return made


@pytest.fixture
def trials() -> list[Any]:
    """Two trials as Tune keeps them, which may fail three times."""
    return [
        SimpleNamespace(
            config={"number": number}, status="RUNNING", is_finished=lambda: False, max_failures=3
        )
        for number in range(2)
    ]


def turns(ray: Played, watch: TrialWatch, trials: list[Any], seconds: int) -> list[str]:
    """What is said while Tune's loop comes round every second for so long."""
    said = []
    for _ in range(seconds):
        ray.time += 1
        said += [event.message for event in watch.look(trials) if isinstance(event, Warned)]
    return said


def test_nothing_is_said_of_trials_that_live_and_go_on(ray: Played, watch: TrialWatch, trials: Any) -> None:
    for step in range(100):
        for number in range(2):
            ray.sign(number, 100 + number, step, step)
        assert turns(ray, watch, trials, 25) == []
    assert ray.killed == []


def test_a_silent_trial_alone_is_named_then_ended_and_continued(
    ray: Played, watch: TrialWatch, trials: Any
) -> None:
    ray.sign(0, 100, step=None)
    ray.sign(1, 101, step=None)
    turns(ray, watch, trials, 3)
    ray.silent = {1}
    assert turns(ray, watch, trials, 85) == [
        "trial-0001: nothing heard of its process (101 on host) for 31 s",
    ]
    assert ray.killed == []
    *_, last = turns(ray, watch, trials, 300)
    assert last == (
        "trial-0001: nothing heard of its process (101 on host) for 121 s: it is ended, and the trial goes "
        "on from its last checkpoint"
    )
    assert ray.killed == [(ray, True)]  # once: its last sign stays with the queue
    assert [trial.max_failures for trial in trials] == [3, 3]
    assert watch.take_reason("trial-0001") == "nothing heard of its process (101 on host) for 121 s"
    assert watch.take_reason("trial-0001") is None


def test_a_trial_that_lives_and_takes_no_step_any_more_is_ended_too(
    ray: Played, watch: TrialWatch, trials: Any
) -> None:
    ray.sign(0, 100, step=7)
    said = turns(ray, watch, trials, 200)
    assert said[0] == (
        "trial-0000: no step after step 7 from its process (100 on host), which lives, for 31 s"
    )
    assert said[-1].endswith("for 121 s: it is ended, and the trial goes on from its last checkpoint")
    assert ray.killed == [(ray, True)]


def test_after_two_restarts_in_vain_a_trial_fails_with_the_reason(
    ray: Played, watch: TrialWatch, trials: Any
) -> None:
    for pid in (100, 200, 300):
        ray.sign(0, pid)
        turns(ray, watch, trials, 200)
    assert len(ray.killed) == 3
    assert [trial.max_failures for trial in trials] == [0, 3]
    assert watch.take_reason("trial-0000") == (
        "no step after step 3 from its process (300 on host), which lives, for 121 s; it was started "
        "again 2 times in vain"
    )


def test_a_trial_that_takes_a_step_between_two_silences_has_not_been_started_in_vain(
    ray: Played, watch: TrialWatch, trials: Any
) -> None:
    for pid in (100, 200, 300, 400):
        ray.sign(0, pid, step=pid)
        turns(ray, watch, trials, 200)
    assert len(ray.killed) == 4
    assert trials[0].max_failures == 3


def test_a_process_that_has_ended_is_left_to_tune(ray: Played, watch: TrialWatch, trials: Any) -> None:
    ray.sign(0, 100)
    turns(ray, watch, trials, 3)
    ray.silent, ray.alive = {0}, False
    assert turns(ray, watch, trials, 1000) == []
    assert ray.killed == []


def test_a_process_between_two_trials_is_ended_without_failing_one(
    ray: Played, watch: TrialWatch, trials: Any
) -> None:
    ray.sign(0, 100)
    trials[0].is_finished = lambda: True
    *_, last = turns(ray, watch, trials, 200)
    assert last.endswith("for 121 s: it is ended")
    assert watch.take_reason("trial-0000") is None


def test_while_the_queue_does_not_answer_no_trial_is_silent_and_after_a_while_another_takes_its_place(
    ray: Played, watch: TrialWatch, trials: Any
) -> None:
    ray.sign(0, 100, step=None)
    turns(ray, watch, trials, 3)
    ray.answers = False
    assert turns(ray, watch, trials, 200) == [
        "the process that trials report to has not answered for 121 s: it is started again"
    ]
    assert ray.killed == [(ray, False)]
    ray.answers, ray.silent = True, {0}
    assert turns(ray, watch, trials, 25) == []


def test_a_trial_whose_process_does_not_come_up_is_waited_for_with_a_voice(
    ray: Played, watch: TrialWatch, trials: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trials[1].status = "PENDING"
    assert turns(ray, watch, trials, 100) == []
    trials[1].status = "RUNNING"
    turns(ray, watch, trials, 100)
    trials[1].status = "PENDING"  # its process was lost, and the next one is on its way
    turns(ray, watch, trials, 50)
    assert caplog.messages == [
        "waiting for a process for trial-0001 to come up; of 8 CPUs 1 are free, if it holds no others (60 s)",
    ]


def test_what_trials_tell_is_passed_on(ray: Played, watch: TrialWatch, trials: Any) -> None:
    told: list[Event] = []
    reporter = TrialReporter(SimpleNamespace(report=SimpleNamespace(remote=told.append)))
    reporter.about("trial-0001")
    reporter.progress(2, 15, 90, 0.5, 1000.0)
    reporter.warning("the gap has opened")
    assert told == [
        Advanced(run="trial-0001", epoch=2, step=15, steps=90, loss=0.5, images_per_s=1000.0),
        Warned(run="trial-0001", message="the gap has opened"),
    ]
    ray.events = list(told)
    ray.time += 1
    assert watch.look(trials) == told


@pytest.mark.parametrize(("said_after_s", "every_s"), [(30, EVERY_S), (6, 2)])
def test_several_signs_may_be_late_before_a_trial_is_called_silent(
    ray: Played, said_after_s: float, every_s: float
) -> None:
    assert TrialWatch(LivenessSettings(said_after_s=said_after_s)).reporter().every_s == every_s

"""Where trials train: what is tried again, and what fails the trial."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ekd_train.settings import TrialStep
from ekd_train.training.reporter import Silent
from orchestrator.experiment.schema import load_experiment
from orchestrator.runtime.event import Advanced, Done, Event, Restarted, Warned
from orchestrator.runtime.job_queue import JobQueueClient
from orchestrator.runtime.ray_session import LaunchError
from orchestrator.tuning.trial_executor import InWorkerPool, TrialFailed

STEP = TrialStep(name="trial-0000", runs=(load_experiment("digits").student_run(),), after=0)


class Group:
    """A worker pool in which `error` is raised so many times; after `most` of them it gives up."""

    def __init__(self, error: BaseException, times: int, most: int = 3) -> None:
        self.error, self.left, self.most = error, times, most
        self.seen: list[Event] = []
        self.ended = ""

    def add(self, jobs: list[Any]) -> None:
        """Nothing is kept."""

    def poll_events(self) -> list[Event]:
        if self.most == 0:
            raise LaunchError("the workers cannot go on")
        if self.left == 0:
            return [Done(run=STEP.name, record={"epoch": 1.0})]
        self.left, self.most, self.seen = self.left - 1, self.most - 1, []
        queue = SimpleNamespace(report=SimpleNamespace(remote=self.seen.append))
        client = JobQueueClient(queue)
        client.about(STEP.name, True)
        client.failed(self.error)
        return self.seen

    def cancel(self) -> None:
        self.ended = "cancelled"

    def close(self) -> None:
        self.ended = self.ended or "closed"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda reference: reference)


def executor(group: Any, reporter: Any = None) -> InWorkerPool:
    made = InWorkerPool.__new__(InWorkerPool)
    made._group, made.setup = group, SimpleNamespace(reporter=reporter or Silent())
    return made


class OutOfMemoryError(RuntimeError):
    """As torch's for GPUs."""


@pytest.mark.parametrize("error", [MemoryError("no 3 GiB left"), OutOfMemoryError("CUDA"), OSError("gone")])
def test_what_another_try_may_mend_is_left_to_the_group_to_try_again(error: Exception) -> None:
    assert executor(Group(error, times=2)).step(STEP) == {"epoch": 1.0}


def test_memory_that_stays_short_fails_the_trial_when_the_group_gives_up() -> None:
    group = Group(MemoryError("no 3 GiB left"), times=9)
    with pytest.raises(TrialFailed, match="MemoryError: no 3 GiB left"):
        executor(group).step(STEP)
    assert (group.left, group.ended) == (6, "closed")


def test_what_the_same_settings_raise_again_is_not_tried_again() -> None:
    group = Group(ValueError("wrong shape"), times=9)
    with pytest.raises(TrialFailed, match="ValueError: wrong shape"):
        executor(group).step(STEP)
    assert (group.left, group.ended) == (8, "cancelled")


def test_what_its_workers_have_to_say_is_passed_on_of_whichever_run_it_is() -> None:
    advanced = Advanced(run=STEP.name, epoch=1, step=2, steps=9, loss=0.5, images_per_s=10)
    others = Advanced(run="another", epoch=1, step=7, steps=9, loss=0.5, images_per_s=10)
    said: list[Event] = [Warned(run="", message="the queue was lost"), Restarted(run=STEP.name)]
    said += [Warned(run="another", message="nothing heard of worker 1"), advanced, others]
    told = Told()
    group = SimpleNamespace(
        add=lambda jobs: None, poll_events=lambda: [*said, Done(run=STEP.name, record={"epoch": 1.0})]
    )
    assert executor(group, told).step(STEP) == {"epoch": 1.0}
    assert told.steps == [2]
    assert told.warnings == [
        "the queue was lost",
        "workers were lost or have come; its workers are started again and continue from the last checkpoint",
        "nothing heard of worker 1",
    ]


class Told(Silent):
    """A reporter that keeps steps too."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def progress(self, epoch: int, step: int, steps: int, loss: float, images_per_s: float) -> None:
        self.steps.append(step)

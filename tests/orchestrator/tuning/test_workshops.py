"""Where trials train: what is tried again, and what they hear of a machine that is about to be taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ekd_train.settings import TrialStep
from orchestrator.experiment.schema import load_experiment
from orchestrator.runtime.job_queue import Event, JobQueueClient
from orchestrator.runtime.ray_session import LaunchError
from orchestrator.tuning.workshops import InWorkerPool, NodeNotice, TrialFailed

STEP = TrialStep(name="trial-0000", runs=(load_experiment("digits").student_run(),), after=0)


class Group:
    """A worker pool in which `error` is raised so many times; after `most` of them it gives up."""

    def __init__(self, error: BaseException, times: int, most: int = 3) -> None:
        self.error, self.left, self.most = error, times, most
        self.seen: list[Event] = []
        self.ended = ""

    def add(self, jobs: list[Any]) -> None:
        """Nothing is kept."""

    def news(self) -> list[Event]:
        if self.most == 0:
            raise LaunchError("the workers cannot go on")
        if self.left == 0:
            return [Event("done", 0, STEP.name, {"record": {"epoch": 1.0}})]
        self.left, self.most, self.seen = self.left - 1, self.most - 1, []
        tell = SimpleNamespace(remote=self.seen.append)
        desk = JobQueueClient(SimpleNamespace(tell=tell))
        desk.about(STEP.name, True)
        desk.failed(self.error)
        return self.seen

    def abandon(self) -> None:
        self.ended = "abandoned"

    def close(self) -> None:
        self.ended = self.ended or "closed"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda reference: reference)


def workshop(group: Group) -> InWorkerPool:
    made = InWorkerPool.__new__(InWorkerPool)
    made._group = group
    return made


class OutOfMemoryError(RuntimeError):
    """As torch's for GPUs."""


@pytest.mark.parametrize("error", [MemoryError("no 3 GiB left"), OutOfMemoryError("CUDA"), OSError("gone")])
def test_what_another_try_may_mend_is_left_to_the_group_to_try_again(error: Exception) -> None:
    assert workshop(Group(error, times=2)).step(STEP) == {"epoch": 1.0}


def test_memory_that_stays_short_fails_the_trial_when_the_group_gives_up() -> None:
    group = Group(MemoryError("no 3 GiB left"), times=9)
    with pytest.raises(TrialFailed, match="MemoryError: no 3 GiB left"):
        workshop(group).step(STEP)
    assert (group.left, group.ended) == (6, "closed")


def test_what_the_same_settings_raise_again_is_not_tried_again() -> None:
    group = Group(ValueError("wrong shape"), times=9)
    with pytest.raises(TrialFailed, match="ValueError: wrong shape"):
        workshop(group).step(STEP)
    assert (group.left, group.ended) == (8, "abandoned")


def test_without_ray_nobody_gives_notice_and_none_is_started() -> None:
    assert NodeNotice().given() is False
    assert not ray.is_initialized()


@pytest.mark.parametrize(("draining", "given"), [({}, False), ({"mine": 0}, True), ({"other": 0}, False)])
def test_a_trial_hears_that_its_own_node_is_about_to_be_taken(
    draining: dict[str, int], given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "mine"))
    monkeypatch.setattr("ray._private.state.state.get_draining_nodes", lambda: draining)
    assert NodeNotice().given() is given


def test_a_cluster_that_does_not_answer_has_given_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise ConnectionError("no head")

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "mine"))
    monkeypatch.setattr("ray._private.state.state.get_draining_nodes", away)
    assert NodeNotice().given() is False

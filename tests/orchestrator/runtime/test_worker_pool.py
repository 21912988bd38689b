"""What the worker pool makes of silence: real decisions, a queue and workers that are played."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from ekd_train.workers.sign import Sign
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime import worker_pool
from orchestrator.runtime.event import Done, Warned
from orchestrator.runtime.job_queue import News
from orchestrator.runtime.ray_session import LaunchError
from orchestrator.runtime.worker_pool import WorkerPool


class Played:
    """Ray, as far as the worker pool asks it: calls are noted, and answered as the test says."""

    def __init__(self) -> None:
        self.time = 0.0
        self.queue, self.answers, self.events = "first", True, []
        self.signs: list[Sign] = []
        self.calls: list[tuple] = []
        self.killed: list = []
        self.alive = True
        self.news = SimpleNamespace(remote=lambda timeout_s: "news")
        self.add = SimpleNamespace(remote=lambda jobs: self.calls.append(("add", list(jobs))))
        self.close = SimpleNamespace(remote=lambda: self.calls.append(("close",)))
        self.__ray_ready__ = SimpleNamespace(remote=lambda: "ready")

    def wait(self, asked, timeout):
        return (asked, []) if self.answers else ([], asked)

    def get(self, asked, timeout=None):
        if asked == "ready":
            if self.alive:
                raise GetTimeoutError
            raise ActorUnavailableError("gone", b"0" * 16)
        events, self.events = self.events, []
        return News(self.queue, 7, "host", events, self.signs)

    def kill(self, actor, *, no_restart):
        self.killed.append((actor, no_restart))


@pytest.fixture
def ray(monkeypatch):
    played = Played()
    monkeypatch.setattr(worker_pool, "ray", played)
    monkeypatch.setattr(worker_pool, "open_job_queue", lambda: played)
    return played


@pytest.fixture
def pool(ray):
    made = WorkerPool(Cluster(), None, None, 1, {})
    made._watch.clock = lambda: ray.time
    return made


def polls(ray, pool, seconds):
    """What is said while the driver looks every 2.5 s for so long."""
    said = []
    for _ in range(int(seconds / 2.5)):
        ray.time += 2.5
        said += [event.message for event in pool.poll_events() if isinstance(event, Warned)]
    return said


def student(**values):
    return Sign(0, "host", 100, run="student", step=3, step_s=0.1, **values)


def test_a_worker_that_is_silent_is_said_then_ended_once_and_left_to_ray_train(ray, pool):
    ray.signs = [student(actor=ray)]
    said = polls(ray, pool, 120)
    assert said[0] == "student: nothing heard of worker 0 (process 100 on host) for 32 s"
    assert ray.killed == []
    said = polls(ray, pool, 30)
    assert [line.endswith("all workers start again from the last checkpoint") for line in said] == [True]
    assert ray.killed == [(ray, True)]


def test_a_worker_that_has_ended_is_not_called_silent(ray, pool):
    ray.signs, ray.alive = [student(actor=ray)], False
    assert polls(ray, pool, 1000) == []
    assert ray.killed == []


def test_two_restarts_in_vain_end_the_run_with_the_reason(ray, pool):
    for pid in range(3):
        ray.signs = [Sign(0, "host", pid, run="student", step=3, step_s=0.1, actor=ray)]
        polls(ray, pool, 120)
        assert len(ray.killed) == pid
        if pid < 2:
            polls(ray, pool, 30)
    with pytest.raises(LaunchError, match=r"student: nothing heard of worker 0 .* 2 times in vain"):
        polls(ray, pool, 30)


def test_a_queue_that_does_not_answer_is_ended_so_that_another_one_takes_its_place(ray, pool):
    pool.poll_events()
    ray.answers = False
    said = polls(ray, pool, 150)
    assert said == [
        "the job queue (process 7 on host) has not answered for 122 s: "
        "it is ended, and all workers start again from the last checkpoint"
    ]
    assert ray.killed == [(ray, False)]
    assert polls(ray, pool, 200) == []  # another one has to start, on a busy machine perhaps
    assert len(polls(ray, pool, 30)) == 1
    with pytest.raises(LaunchError, match=r"the job queue .* was started again 2 times in vain"):
        polls(ray, pool, 300)


def test_another_queue_is_given_what_is_not_done(ray, pool):
    jobs = [SimpleNamespace(name=name) for name in ("teacher-0", "teacher-1", "control")]
    pool.add(jobs)
    ray.events = [Done(run="teacher-0", record={})]
    pool.poll_events()
    ray.queue = "second"
    (event,) = pool.poll_events()
    assert event.message == "the job queue was lost: all workers start again from the last checkpoint"
    assert ray.calls == [("add", jobs), ("add", jobs[1:])]
    assert pool.poll_events() == []


def test_workers_that_do_not_come_up_are_waited_for_with_a_voice(ray, pool, caplog):
    pool._coming.clock = lambda: ray.time
    pool._coming.begin(shared=False)
    pool.add([SimpleNamespace(name="teacher-0")])
    assert polls(ray, pool, 140) == []
    assert caplog.messages == [
        "waiting for workers to load Python and torch, and to meet (60 s)",
        "waiting for workers to load Python and torch, and to meet (120 s)",
    ]
    ray.signs = [student(actor=ray)]
    polls(ray, pool, 2.5)
    ray.signs, caplog_before = [], len(caplog.messages)
    polls(ray, pool, 50)
    assert len(caplog.messages) == caplog_before

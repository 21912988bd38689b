"""What is said while workers come up: played time, and what Ray says of its cluster."""

import threading
from types import SimpleNamespace

import pytest

from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime import coming
from orchestrator.runtime.coming import LOADING, Coming, holders

HELD = "waiting for workers to come up, with 1 CPU each, 1 at least; of 8 CPUs 0 are free"


def actor(class_name, job_id, state="ALIVE", **resources):
    return SimpleNamespace(
        class_name=class_name, job_id=job_id, state=state, required_resources=resources or None
    )


@pytest.fixture
def ray(monkeypatch):
    """A cluster of 8 CPUs and its actors, seen from job 02; `actors` may be an error instead."""
    played = SimpleNamespace(time=0.0, free=0.0, actors=[], asked=0)
    context = SimpleNamespace(get_job_id=lambda: "02")
    played.get_runtime_context = lambda: context
    played.cluster_resources = lambda: {"CPU": 8.0}
    played.available_resources = lambda: {"CPU": played.free}

    def list_actors(**options):
        played.asked += 1
        if isinstance(played.actors, Exception):
            raise played.actors
        return played.actors[: options["limit"]]

    monkeypatch.setattr(coming, "ray", played)
    monkeypatch.setattr(coming, "list_actors", list_actors)
    return played


@pytest.fixture
def said(ray, caplog):
    """What is said, and when, in so many seconds of looking every 2.5 s."""

    def wait(seconds, *, shared=True, meanwhile=lambda second: None):
        waiting = Coming(Cluster(), clock=lambda: ray.time)
        waiting.begin(shared=shared)
        found = []
        while ray.time < seconds:
            ray.time += 2.5
            meanwhile(ray.time)
            caplog.clear()
            waiting.look()
            found += caplog.messages
        return found

    return wait


def test_after_ten_seconds_it_is_said_who_holds_the_cpus_and_then_every_minute(ray, said):
    ray.actors = [
        actor("JobQueue", "02"),
        *(actor("Hog", "03", CPU=2.0) for _ in range(3)),
        actor("RayTrainWorker", "04", CPU_group_0_1a2b=1.0, CPU_group_1a2b=1.0),
        actor("Waits", "04", "PENDING_CREATION", CPU=2.0),
        actor("Idle", "05", CPU=0.0, memory=1.0),
    ]
    who = ": of others' jobs 3 × Hog (job 03), RayTrainWorker (job 04) hold some"
    assert said(100) == [f"{HELD}{who} (10 s)", f"{HELD}{who} (70 s)"]
    assert ray.asked == 2


def test_of_many_holders_the_first_are_named(ray):
    ray.actors = [actor(f"Actor{number}", "03", GPU=1.0) for number in range(5)]
    assert str(holders(["GPU"])) == "Actor0 (job 03), Actor1 (job 03), Actor2 (job 03) and others"
    assert str(holders(["CPU"])) == ""


@pytest.mark.parametrize("state", ["ALIVE", "PENDING_CREATION"])
def test_workers_that_have_their_place_are_given_a_minute_to_load(ray, said, state):
    ray.actors = [actor("RayTrainWorker", "02", state, CPU_group_1a2b=1.0), actor("Hog", "03", CPU=7.0)]
    assert said(70) == [f"waiting for {LOADING} (60 s)"]


def test_where_cpus_are_free_workers_are_given_a_minute_too(ray, said):
    ray.free = 1.0
    assert said(70) == [f"waiting for {LOADING} (60 s)"]


def test_in_a_ray_of_our_own_nobody_else_holds_anything(ray, said):
    assert said(70, shared=False) == [f"waiting for {LOADING} (60 s)"]
    assert ray.asked == 0


def test_where_ray_does_not_say_who_it_is_said_that_cpus_are_held_if_they_were_before(ray, said):
    ray.actors = ConnectionError("no dashboard")
    assert said(20) == [f"{HELD}, if these workers do not hold the others (10 s)"]


def test_where_ray_does_not_say_who_those_that_were_free_before_are_taken_for_ours(ray, said):
    ray.actors, ray.free = ConnectionError("no dashboard"), 8.0

    def taken(second):
        ray.free = 0.0

    assert said(70, meanwhile=taken) == [f"waiting for {LOADING} (60 s)"]


def test_a_dashboard_that_does_not_answer_is_not_waited_for(ray, monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(coming, "list_actors", lambda **_: end.wait())
    monkeypatch.setattr(coming, "STATE_S", 0.05)
    assert holders(["CPU"]) is None
    end.set()


def test_once_workers_are_there_the_wait_begins_anew(ray, caplog):
    waiting = Coming(Cluster(), clock=lambda: ray.time)
    waiting.begin(shared=True)
    ray.time = 9.0
    waiting.again()
    ray.time = 18.0
    waiting.look()
    assert caplog.messages == []
    ray.time = 20.0
    waiting.look()
    assert caplog.messages == [f"{HELD} (11 s)"]

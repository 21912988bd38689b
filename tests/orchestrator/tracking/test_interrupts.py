"""A signal may come at any moment; what MLflow is told of the end does not depend on which."""

import os
import random
import signal
import threading

import pytest

from orchestrator.tracking.clients import Uninterrupted
from orchestrator.tracking.connection import connect
from orchestrator.tracking.run_state import RunState


@pytest.fixture
def interrupt_after():
    """Raises KeyboardInterrupt in the main thread, by a signal, in so many seconds."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timers = []

    def after(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1)))
        timers[-1].start()

    yield after
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, before)


def report_epochs(tracker, first):
    first()  # the interrupt, which must not come before it is waited for: it would end pytest itself
    for epoch in range(100_000):
        tracker.log_metrics(f"teacher-{epoch % 3}", {"loss": 1.0, "accuracy": 0.5}, epoch)
        tracker.show({f"teacher-{epoch % 3}": RunState(tags={"epoch": str(epoch)})})


def test_whenever_an_interrupt_comes_all_runs_are_ended(open_tracker, interrupt_after, store_uri):
    chance = random.Random(0)
    for number in range(30):
        tracker = open_tracker(ekd_run_id=f"interrupted-{number}")
        with pytest.raises(KeyboardInterrupt):
            report_epochs(tracker, lambda: interrupt_after(chance.uniform(0.0, 0.15)))
        assert tracker.close("KILLED")
        runs = tracker.client.search_runs(
            [tracker.experiment_id], f"tags.`ekd.run_id` = 'interrupted-{number}'"
        )
        assert {run.info.status for run in runs} == {"KILLED"}
        assert len({run.info.run_name for run in runs}) == len(runs)


def test_children_that_a_killed_process_left_running_are_ended_too(open_tracker):
    killed = open_tracker()
    left, done = killed.child("teacher-0"), killed.child("teacher-1")
    killed.finish("teacher-1", "FINISHED")
    again = open_tracker()
    assert again.close("KILLED")
    assert again.client.get_run(left).info.status == "KILLED"
    assert again.client.get_run(done).info.status == "FINISHED"


def test_a_call_that_was_interrupted_ends_before_the_next_one_begins(interrupt_after):
    class Database:
        def __init__(self):
            self.calls = []
            self.let_on = threading.Event()

        def write(self, what):
            assert self.let_on.wait(30)
            self.calls.append(what)

    database = Database()
    client = Uninterrupted(database)

    def interrupted():
        interrupt_after(0.1)
        client.write("first")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    database.let_on.set()
    client.write("second")
    assert database.calls == ["first", "second"]


def test_what_a_call_raises_is_raised(store_uri):
    with pytest.raises(Exception, match="not found"):
        connect(store_uri).get_run("0" * 32)

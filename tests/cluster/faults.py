"""What `make soak` does to a run: each harms its cluster, for a time that is drawn, and mends it."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

from hosts import Host
from job import Job, paused
from ray_hosts import WORKERS

Fault = Callable[[Job, Random], None]


def a_worker_process_is_killed(job: Job, draw: Random) -> None:
    """Of several, any."""
    if pids := job.trainers():
        with suppress(ProcessLookupError):
            os.kill(draw.choice(pids), signal.SIGKILL)


def a_worker_process_stands_still(job: Job, draw: Random) -> None:
    """For less or for longer than silence is borne."""
    if pids := job.trainers():
        with paused([draw.choice(pids)]):
            time.sleep(draw.uniform(2, 40))


def the_job_queue_stands_still(job: Job, draw: Random) -> None:
    """For less or for longer than silence is borne."""
    with paused(job.cluster.hosts["head"].processes("ray::JobQueue")[:1]):
        time.sleep(draw.uniform(2, 40))


def a_worker_host_loses_power(job: Job, draw: Random) -> None:
    """A fresh one takes its place."""
    name = draw.choice(list(WORKERS))
    job.cluster.hosts[name].pull_the_plug()
    time.sleep(draw.uniform(1, 20))
    job.cluster.start_worker(name)


def a_cable_is_cut(job: Job, draw: Random) -> None:
    """And mended; where that took too long for Ray the host has to join again."""
    host = _a_worker_host(job, draw)
    host.unplug()
    time.sleep(draw.uniform(2, 25))
    host.plug_in()


def two_workers_lose_each_other(job: Job, draw: Random) -> None:
    """The head reaches both."""
    one, other = (job.cluster.hosts[name] for name in WORKERS)
    with one.without(other):
        time.sleep(draw.uniform(2, 30))


def a_link_is_slow(job: Job, draw: Random) -> None:
    """Of one worker host."""
    with _a_worker_host(job, draw).slow_link():
        time.sleep(draw.uniform(5, 30))


def training_is_slow(job: Job, draw: Random) -> None:
    """As where others use the machines."""
    with job.training_slowed():
        time.sleep(draw.uniform(5, 30))


def s3_is_away(job: Job, draw: Random) -> None:
    """It accepts and does not answer."""
    job.cluster.store.stop()
    time.sleep(draw.uniform(2, 20))
    job.cluster.store.go_on()


def s3_throttles(job: Job, draw: Random) -> None:
    """Every second request."""
    with job.cluster.store.throttled():
        time.sleep(draw.uniform(5, 30))


def mlflow_is_started_again(job: Job, draw: Random) -> None:
    """After a while."""
    job.cluster.tracking.kill()
    time.sleep(draw.uniform(0, 20))
    job.cluster.tracking.start()


def the_driver_is_killed(job: Job, draw: Random) -> None:
    """Whoever submitted the run does it again."""
    with suppress(AssertionError, OSError, KeyError, ValueError):  # it has none at the moment
        os.kill(job.driver(), signal.SIGKILL)


FAULTS: tuple[Fault, ...] = (
    a_worker_process_is_killed,
    a_worker_process_stands_still,
    the_job_queue_stands_still,
    a_worker_host_loses_power,
    a_cable_is_cut,
    two_workers_lose_each_other,
    a_link_is_slow,
    training_is_slow,
    s3_is_away,
    s3_throttles,
    mlflow_is_started_again,
    the_driver_is_killed,
)


def _a_worker_host(job: Job, draw: Random) -> Host:
    return job.cluster.hosts[draw.choice(list(WORKERS))]

"""A Ray of one's own: what its workers have, and what is left of it when a check says no."""

import json
import os
import subprocess
import sys
import threading

import pytest

from ekd_train.workers.allocator import KEEP_FREED_MEMORY
from orchestrator.runtime import ray_session
from orchestrator.runtime.address import LISTENING
from orchestrator.runtime.ray_session import AS_NICE_AS_THE_DRIVER, variables_for_workers

PROGRAM = """
import json, os, pathlib, subprocess, sys
from orchestrator.experiment.infrastructure import Cluster
from orchestrator import api, load_experiment
api.pipeline_on(load_experiment("digits", ["cluster.address=local"]).cluster)
from orchestrator.runtime.ray_session import ray_logs, start_ray

unknown = ray_logs()
capacity = start_ray(Cluster(address="local"), pathlib.Path(sys.argv[1]), {"EKD_ADDRESS": "there"})
import ray
have = ray.get(ray.remote(lambda: dict(os.environ)).remote())
processes = subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True)
pairs = [line.split() for line in processes.splitlines()]
family, size = {str(os.getpid())}, 0
while size < len(family):
    size = len(family)
    family |= {child for child, parent in pairs if parent in family}
sockets = subprocess.check_output(["ss", "-ltnpH"], text=True).splitlines()
print(json.dumps({
    "listening": [s.split()[3] for s in sockets if any(f"pid={process}," in s for process in family)],
    "own": capacity.own,
    "workers_have": have,
    "niceness": (os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote())),
    "driver_has": dict(os.environ),
    "logs": (unknown, ray_logs(), os.listdir(ray_logs())),
}))
"""


def test_what_a_user_has_set_stays_and_a_cluster_keeps_its_own_ways(monkeypatch):
    for name in (*KEEP_FREED_MEMORY, *AS_NICE_AS_THE_DRIVER):
        monkeypatch.delenv(name, raising=False)
    address = {"EKD_ADDRESS": "there"}
    assert variables_for_workers(address, own=False) == KEEP_FREED_MEMORY | address
    assert variables_for_workers(address, own=True) == KEEP_FREED_MEMORY | AS_NICE_AS_THE_DRIVER | address
    monkeypatch.setenv("RAY_worker_niceness", "15")
    assert "RAY_worker_niceness" not in variables_for_workers(address, own=True)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    names = (*KEEP_FREED_MEMORY, *AS_NICE_AS_THE_DRIVER, "RAY_ADDRESS", LISTENING)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("ray") / "ray.log")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=400)
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_its_workers_have_the_variables_and_the_driver_is_left_as_it_was(session):
    wanted = KEEP_FREED_MEMORY | AS_NICE_AS_THE_DRIVER | {"EKD_ADDRESS": "there"}
    assert {name: session["workers_have"].get(name) for name in wanted} == wanted
    assert not set(wanted) & set(session["driver_has"])
    assert session["own"]


@pytest.mark.attack
@pytest.mark.slow
def test_it_listens_on_the_loopback_alone(session):
    hosts = {place.rpartition(":")[0] for place in session["listening"]}
    assert len(session["listening"]) > 5  # GCS, raylet, agents, driver, worker
    assert hosts <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


@pytest.mark.slow
def test_its_workers_are_as_nice_as_the_driver(session):
    driver, worker = session["niceness"]
    assert worker == driver


@pytest.mark.slow
def test_where_it_writes_its_logs_is_known_once_it_runs(session):
    before, _, files = session["logs"]
    assert before is None
    assert "raylet.out" in files


def test_leaving_a_cluster_that_does_not_answer_takes_no_longer_than_its_limit(monkeypatch):
    waiting, done = threading.Event(), threading.Event()

    def shutdown():
        waiting.set()
        done.wait(60)

    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_session.ray, "shutdown", shutdown)
    monkeypatch.setattr(ray_session, "LEAVING_S", 0.05)
    ray_session.stop_ray()
    assert waiting.is_set()
    done.set()


def test_where_ray_is_gone_already_its_guard_goes_too(monkeypatch):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as guard:  # ends with its input, as the guard does
        monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray_session, "_guards", [guard])
        ray_session.stop_ray()
        assert guard.wait(60) == 0

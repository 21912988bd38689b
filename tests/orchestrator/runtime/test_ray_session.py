"""A Ray of one's own: started beside work, found again, stopped if the work says no."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ekd_process import MARK, EkdRun

from ekd_train.workers.allocator import KEEP_FREED_MEMORY
from orchestrator.runtime.ray_session import ONLY_TRAINING, variables_for_workers

PROGRAM = """
import json, os, pathlib, sys, threading, time
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime.ray_session import start_ray, start_ray_beside

def work():
    return threading.current_thread() is threading.main_thread()

on_main_thread = start_ray_beside(Cluster(address="local"), {"EKD_ADDRESS": "there"}, work)
import ray
node = ray.get_runtime_context().get_node_id()
has = ray.get(ray.remote(lambda: dict(os.environ)).remote())
log = pathlib.Path(ray._private.worker._global_node.get_logs_dir_path()) / "log_monitor.log"
while not log.exists() or "Starting log monitor" not in log.read_text():
    time.sleep(0.1)
time.sleep(2)
start_ray(Cluster(address="local"), pathlib.Path(sys.argv[1]))
print(json.dumps({
    "worked_on_main_thread": on_main_thread,
    "same_ray": node == ray.get_runtime_context().get_node_id(),
    "workers_have": has,
    "niceness": (os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote())),
    "log_monitor": log.read_text(),
    "driver_has": dict(os.environ),
}))
"""


def test_what_a_user_has_set_stays_and_a_cluster_keeps_its_own_ways(monkeypatch):
    for name in (*KEEP_FREED_MEMORY, *ONLY_TRAINING):
        monkeypatch.delenv(name, raising=False)
    address = {"EKD_ADDRESS": "there"}
    assert variables_for_workers(address, own=False) == KEEP_FREED_MEMORY | address
    assert variables_for_workers(address, own=True) == KEEP_FREED_MEMORY | ONLY_TRAINING | address
    monkeypatch.setenv("RAY_worker_niceness", "15")
    assert "RAY_worker_niceness" not in variables_for_workers(address, own=True)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    names = (*KEEP_FREED_MEMORY, *ONLY_TRAINING, "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("ray") / "ray.log")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=400)
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_the_work_is_done_beside_it_and_the_next_start_finds_the_same_ray(told):
    assert told["same_ray"]
    assert not told["worked_on_main_thread"]


@pytest.mark.slow
def test_its_workers_have_the_variables_and_the_driver_is_left_as_it_was(told):
    wanted = KEEP_FREED_MEMORY | ONLY_TRAINING | {"EKD_ADDRESS": "there"}
    assert {name: told["workers_have"].get(name) for name in wanted} == wanted
    assert not set(wanted) & set(told["driver_has"])


@pytest.mark.slow
def test_its_workers_are_as_nice_as_the_driver(told):
    driver, worker = told["niceness"]
    assert worker == driver


@pytest.mark.slow
def test_nobody_reads_what_its_workers_write_for_a_driver_that_does_not_show_it(told):
    assert "Starting log monitor" in told["log_monitor"]
    assert "Beginning to track file" not in told["log_monitor"]


@pytest.mark.slow
def test_a_network_that_cannot_be_is_one_line_and_leaves_neither_a_run_nor_a_ray(tmp_path):
    run = EkdRun(tmp_path / "here", ["student.architecture.depth=11"])
    started = run.start()
    started.until(lambda: any("raylet" in command for command in marked(started.mark)))
    assert started.process.wait(400) == 2
    assert started.err.startswith("ekd: student: wide_resnet: depth must be 6n+4 with n >= 1, got 11; ")
    assert started.err.count("\n") == 1
    assert not (run.folder / "runs").exists()
    deadline = time.monotonic() + 120
    while left := marked(started.mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def marked(mark):
    """The command lines of processes that the run has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
    return found

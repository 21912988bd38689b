"""Ray says that a node is being drained; workers and trials see it, and one worker group alone leaves."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from ekd_train.workers import node_notice
from ekd_train.workers.node_notice import NodeNotice, draining_nodes


@pytest.mark.parametrize(
    ("draining", "given"), [(set(), False), ({"mine"}, True), ({"of a colleague"}, True), ({"other"}, False)]
)
def test_notice_is_given_for_the_nodes_that_matter(draining, given):
    assert NodeNotice({"mine", "of a colleague"}, draining=lambda: draining).given() is given


def test_ray_is_polled_every_few_seconds_however_short_epochs_are(monkeypatch):
    now, polls = [100.0], []
    monkeypatch.setattr(node_notice.time, "monotonic", lambda: now[0])

    def poll():
        polls.append(now[0])
        return {"mine"} if now[0] > 104 else set()

    notice = NodeNotice({"mine"}, draining=poll)
    given = []
    for now[0] in (100.0, 101.0, 104.9, 105.0, 106.0):
        given.append(notice.given())
    assert polls == [100.0, 105.0]
    assert given == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("own", "draining", "leaves"),
    [("mine", {"mine"}, True), ("mine", {"other"}, False), (None, {"mine"}, False)],
)
def test_only_a_worker_that_may_leave_and_whose_own_node_goes_ends(own, draining, leaves, monkeypatch):
    ended = []
    monkeypatch.setattr(node_notice.os, "_exit", ended.append)
    notice = NodeNotice({"mine", "other"}, own, draining=lambda: draining)
    assert notice.given()
    notice.leave()
    assert ended == [1] * leaves


def test_without_ray_no_notice_is_given_and_none_is_started():
    assert draining_nodes() == set()
    assert not ray.is_initialized()


def test_a_cluster_that_does_not_answer_has_given_no_notice(monkeypatch):
    def away(*_, **__):
        raise ConnectionError("no head")

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.autoscaler.v2.sdk.get_cluster_status", away)
    assert draining_nodes() == set()


PROGRAM = """
import subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from ekd_train.workers.node_notice import draining_nodes

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
here = ray.get_runtime_context().get_node_id()
[other] = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != here]
print(draining_nodes() == set())


@ray.remote(num_cpus=1)
class Worker:
    def node(self):
        return ray.get_runtime_context().get_node_id()


workers = [Worker.remote() for _ in range(2)]  # a node without work would end at once
assert other in ray.get([worker.node.remote() for worker in workers])
subprocess.run(
    [sys.argv[1], "drain-node", "--address", cluster.address, "--node-id", other]
    + ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    + ["--deadline-remaining-seconds", "600"],
    check=True, capture_output=True,
)
print(draining_nodes() == {other})
"""


@pytest.mark.slow
def test_a_node_that_ray_drains_is_known_from_its_cluster_status():
    command = [sys.executable, "-c", PROGRAM, str(Path(sys.executable).with_name("ray"))]
    # A folder of its own, short enough for sockets: in Ray's usual one whoever starts a run would find it.
    with tempfile.TemporaryDirectory(prefix="ekd-") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=400, check=False, env=environment
        )
    assert done.stdout.split() == ["True", "True"], done.stderr

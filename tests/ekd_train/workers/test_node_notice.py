"""Ray says that a node is being drained; workers and trials see it, and one worker group alone leaves."""

import inspect
from types import SimpleNamespace

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


def test_nodes_are_draining_by_the_words_of_the_installed_ray(monkeypatch):
    """The fault matrix drains a real node (`test_a_spot_host_is_given_notice`)."""
    from ray.autoscaler.v2.schema import ClusterStatus, NodeInfo
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    kinds = [NodeStatus.Name(value) for value in NodeStatus.values()]
    assert set(kinds) == {"UNSPECIFIED", "RUNNING", "DEAD", "IDLE", "DRAINING"}
    nodes = [
        NodeInfo("", "", "", "", node_status=kind, node_id=f"{kind} {place}")
        for kind in kinds
        for place in ("active", "idle")
    ]
    status = ClusterStatus(active_nodes=nodes[::2], idle_nodes=nodes[1::2], failed_nodes=nodes)
    asked = []

    def answer(gcs_address, timeout):
        asked.append(gcs_address)
        return status

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))
    monkeypatch.setattr("ray.autoscaler.v2.sdk.get_cluster_status", answer)
    assert draining_nodes() == {"DRAINING active", "DRAINING idle"}
    assert asked == ["head:6379"]


def test_the_status_is_asked_for_as_the_installed_ray_wants_it():
    from ray.autoscaler.v2.sdk import get_cluster_status

    assert ray.__version__.startswith("2.60."), "read ray.autoscaler.v2.sdk again, then raise this"
    assert list(inspect.signature(get_cluster_status).parameters) == ["gcs_address", "timeout"]
    assert isinstance(ray.runtime_context.RuntimeContext.gcs_address, property)

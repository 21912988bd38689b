"""What is private to Ray is used as the release has it that it was read in, and is not needed to go on."""

import pytest
import ray
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

from orchestrator.planning.capacity import Node, NodeGroup
from orchestrator.runtime.ray_private import MANY_NODES, READ_IN, node_groups

CONFIGURED = "ray._private.state.state.get_cluster_config"


def test_it_was_read_in_the_release_that_is_installed():
    assert ray.__version__.startswith(f"{READ_IN}."), (
        "read ray_private.py's sources again, then raise READ_IN"
    )


def test_the_machines_that_an_autoscaler_may_start_are_known(monkeypatch):
    group = NodeGroupConfig(resources={"CPU": 4, "GPU": 1}, max_count=8)
    endless = NodeGroupConfig(resources={"CPU": 2}, max_count=-1)
    none = NodeGroupConfig(resources={"CPU": 64}, max_count=0)
    config = ClusterConfig(node_group_configs=[group, endless, none])
    monkeypatch.setattr(CONFIGURED, lambda: config)
    assert node_groups() == (NodeGroup(Node(4, 1), 8), NodeGroup(Node(2), MANY_NODES))


def test_a_cluster_without_an_autoscaler_has_none(monkeypatch):
    monkeypatch.setattr(CONFIGURED, lambda: None)
    assert node_groups() == ()


@pytest.mark.parametrize("left_out", ["get_cluster_config", ""])
def test_a_ray_that_does_not_say_has_none(left_out, monkeypatch):
    if left_out:
        monkeypatch.delattr(CONFIGURED.replace(".state.get", ".GlobalState.get"))
    else:
        monkeypatch.delattr("ray._private.state.state")
    assert node_groups() == ()

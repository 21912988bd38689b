"""The one place that uses private parts of Ray: what it says nowhere else.

Looked for in Ray 2.60.0: `ray.nodes`, `ray.cluster_resources`, `ray.util.state`, `ray.autoscaler.sdk` and the
status behind `ray status` know the machines that are there, not those that an autoscaler may start.
"""

import logging

from orchestrator.planning.capacity import Node, NodeGroup

READ_IN = "2.60"
"""The release of Ray in which the private parts were read; a test compares."""

MANY_NODES = 1000
"""What an autoscaler without a limit is taken for."""

log = logging.getLogger(__name__)


def node_groups() -> tuple[NodeGroup, ...]:
    """The machines that the connected cluster's autoscaler may start; none if Ray does not say.

    Without an answer a cluster is taken for the machines that are there now.
    """
    try:
        from ray._private.state import state

        config = state.get_cluster_config()
        groups = config.node_group_configs if config is not None else ()
        return tuple(
            NodeGroup(
                Node(group.resources.get("CPU", 0), group.resources.get("GPU", 0)),
                group.max_count if group.max_count >= 0 else MANY_NODES,
            )
            for group in groups
            if group.max_count
        )
    except (ImportError, AttributeError) as error:
        log.warning("this Ray does not say what its autoscaler may start: %s", error)
        return ()

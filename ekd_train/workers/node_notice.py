"""Notice that a machine is about to be taken away: a spot instance, a drained node.

Ray's cluster status, which `ray status` shows, says which nodes are being drained. Ray Train's own
`get_preemption_info` is no use here: it is a barrier of the whole worker pool, whose worker groups are never
at the same point, and a trial that trains in its own process is not in Ray Train at all.
"""

import logging
import os
import time
from collections.abc import Callable, Collection

import ray

POLL_S = 5.0
"""How old an answer may be; Ray Train polls as often."""

TIMEOUT_S = 2
"""How long the head node may take to answer."""

log = logging.getLogger(__name__)


def draining_nodes() -> set[str]:
    """The ids of the nodes that are being drained; empty if Ray does not say.

    `ray.autoscaler.v2.sdk` was read in Ray 2.60; `test_node_notice.py` says if a newer one answers otherwise.
    """
    if not ray.is_initialized():  # else it would be started, or one that has gone waited for
        return set()
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=TIMEOUT_S)
        nodes = (*status.active_nodes, *status.idle_nodes)
        return {node.node_id for node in nodes if node.node_id and node.node_status == "DRAINING"}
    except Exception as error:  # without notice a run continues from its last regular checkpoint
        log.warning("Ray does not say which nodes are being drained: %s", error)
        return set()


class NodeNotice:
    """Whether nodes are about to be taken, as `ekd_train.distributed.Notice`; polls at most every 5 s."""

    def __init__(
        self,
        nodes: Collection[str],
        own: str | None = None,
        draining: Callable[[], Collection[str]] = draining_nodes,
    ) -> None:
        """`nodes`: ids of those that matter. `own`: of this process's node, if it is to leave it in time."""
        self._nodes, self._own, self._draining = frozenset(nodes), own, draining
        self._found: frozenset[str] = frozenset()
        self._polled_at = float("-inf")

    def given(self) -> bool:
        """Whether one of the nodes is about to be taken."""
        if time.monotonic() - self._polled_at >= POLL_S:
            self._found = self._nodes.intersection(self._draining())
            self._polled_at = time.monotonic()
        return bool(self._found)

    def leave(self) -> None:
        """End this process if its own node is about to be taken: Ray starts the workers again elsewhere."""
        if self._own in self._found:
            log.warning("this node is about to be taken: checkpointed, leaving")
            os._exit(1)  # an exception would be reported as the failure of the job

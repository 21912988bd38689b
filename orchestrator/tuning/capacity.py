"""How many trials a cluster runs at once, so that none waits for another that waits for it."""

from orchestrator.experiment.infrastructure import Cluster
from orchestrator.planning.capacity import Capacity
from orchestrator.tuning.request import SearchRequest


def trials_at_once(cluster: Cluster, capacity: Capacity, request: SearchRequest) -> int:
    """Trials that have all of their workers at the same time; at least one.

    A trial of several workers is only begun when the cluster has room for its whole worker
    group beside those of all others; so no group is ever half there. An elastic trial counts
    with its largest number of workers, because its group takes as many as it finds: if even one
    is too large for the cluster, it takes all, and the next would wait for it.
    """
    whole = capacity.workers(cluster) // cluster.most_workers
    limits = [request.trials, request.max_concurrent, cluster.runs_at_once]
    return max(1, min(whole, *(limit for limit in limits if limit is not None)))

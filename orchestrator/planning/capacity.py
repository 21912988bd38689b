"""How many worker groups of a kind fit a cluster at once, and whether one ever will: pure functions."""

from dataclasses import dataclass

from orchestrator.experiment.infrastructure import Cluster

HERE = "this machine"
"""Where a Ray is that the process itself starts."""


@dataclass(frozen=True)
class Node:
    """What one machine offers to work."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class NodeGroup:
    """Machines of one kind that an autoscaler may start, and how many at most."""

    node: Node
    most: int


@dataclass(frozen=True)
class Capacity:
    """What a cluster offers; `groups` is what it may consist of, where an autoscaler says so."""

    nodes: tuple[Node, ...]
    where: str
    groups: tuple[NodeGroup, ...] = ()

    @property
    def own(self) -> bool:
        """Whether it is all this process's: nobody else takes of it, and it stays as it is."""
        return self.where == HERE

    def workers(self, cluster: Cluster) -> int:
        """How many workers of the experiment's kind fit at once, grown as far as the cluster will."""
        now = sum(_fit(node, cluster) for node in self.nodes)
        return max(now, sum(_fit(group.node, cluster) * group.most for group in self.groups))

    def unused_gpus(self, cluster: Cluster) -> str:
        """What to add to a line about the cluster if it has GPUs that the experiment leaves idle, else ""."""
        kinds = (*self.nodes, *(group.node for group in self.groups))
        if cluster.gpus_per_worker or not any(node.gpus for node in kinds):
            return ""
        return "; NO GPU IS USED: --set cluster.gpus_per_worker=1 does"

    def describe(self) -> str:
        """One line: machines, CPUs and GPUs."""
        cpus, gpus = sum(n.cpus for n in self.nodes), sum(n.gpus for n in self.nodes)
        grown = ""
        if self.groups:
            most = (f"{g.most} of {g.node.cpus:g} CPUs and {g.node.gpus:g} GPUs" for g in self.groups)
            grown = f", growing to {' and '.join(most)}"
        plural = "s" if len(self.nodes) != 1 else ""
        return f"{self.where}: {len(self.nodes)} node{plural}, {cpus:g} CPUs, {gpus:g} GPUs{grown}"


def just_enough(cluster: Cluster) -> Capacity:
    """What one training run needs, for a command that trains nothing and asks no cluster."""
    node = Node(cluster.cpus_per_worker, cluster.gpus_per_worker)
    return Capacity((node,) * cluster.fewest_workers, HERE)


def why_never(cluster: Cluster, capacity: Capacity) -> str | None:
    """Why not even one training run can be scheduled on `capacity`, ever; None if it can."""
    needed = cluster.fewest_workers
    fits = capacity.workers(cluster)
    if fits >= needed:
        return None
    kinds = (*capacity.nodes, *(group.node for group in capacity.groups))
    if cluster.gpus_per_worker and not any(node.gpus for node in kinds):
        return (
            f"cluster.gpus_per_worker is {cluster.gpus_per_worker:g} but there is no GPU "
            f"({capacity.describe()}); set cluster.gpus_per_worker=0 to train "
            "on CPUs, or cluster.address to a cluster that has some"
        )
    gpus = f" and {_count(cluster.gpus_per_worker, 'GPU')}" if cluster.gpus_per_worker else ""
    return (
        f"cluster.workers_per_run: a run needs {_count(needed, 'worker')} of "
        f"{_count(cluster.cpus_per_worker, 'CPU')}{gpus}, but {fits or 'none'} can ever fit "
        f"({capacity.describe()}); lower cluster.workers_per_run, cluster.cpus_per_worker or "
        "cluster.gpus_per_worker, or use a larger cluster"
    )


def runs_at_once(cluster: Cluster, capacity: Capacity, runs: int) -> int:
    """How many worker groups to keep up: what fits, at most one per run, at least one."""
    fitting = capacity.workers(cluster) // cluster.most_workers
    wanted = min(runs, cluster.runs_at_once or runs)
    return max(1, min(wanted, fitting))


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _fit(node: Node, cluster: Cluster) -> int:
    by_cpu = int(node.cpus // cluster.cpus_per_worker)
    if not cluster.gpus_per_worker:
        return by_cpu
    return min(by_cpu, int(node.gpus / cluster.gpus_per_worker + 1e-9))

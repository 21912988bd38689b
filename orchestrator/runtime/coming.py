"""The wait for workers to come up: who holds what they need, or that they only load."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray.util.state import list_actors

from ekd_train.waiting import AGAIN_S, FIRST_S, log
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime.deadline import within

COMING_S = 60.0
"""Workers usually need a quarter of it to come up, where they have a place: to import torch, form groups."""

STATE_S = 5
"""How long Ray's dashboard may take to say who holds what; without a dashboard nothing does."""

MOST_ACTORS, MOST_NAMED = 1000, 3

LOADING = "workers to load Python and torch, and to meet"


@dataclass
class Holders:
    """Actors of the cluster that hold CPUs or GPUs."""

    ours: bool
    """Whether some are of this driver's job, if only begun: its workers have their place."""
    others: Counter[str] = field(default_factory=Counter)
    """In words, how many there are."""

    def __str__(self) -> str:
        named = [
            f"{count} × {who}" if count > 1 else who for who, count in self.others.most_common(MOST_NAMED)
        ]
        return ", ".join(named) + " and others" * (len(self.others) > MOST_NAMED)


def holders(resources: list[str]) -> Holders | None:
    """Who holds some of `resources`; None if Ray does not say: only its dashboard knows."""
    try:
        mine = ray.get_runtime_context().get_job_id()
        actors = within(
            STATE_S,
            lambda: list_actors(
                filters=[("state", "!=", "DEAD")],
                limit=MOST_ACTORS,
                timeout=STATE_S,
                detail=True,
                raise_on_missing_output=False,
            ),
        )
    except Exception:  # whatever it is: that it is not known who waits is no reason to fail
        return None
    found = Holders(ours=False)
    for actor in actors:
        held = actor.required_resources or {}
        # In a placement group it is CPU_group_1a2b and CPU_group_0_1a2b.
        if not any(amount and name.partition("_group_")[0] in resources for name, amount in held.items()):
            continue
        if actor.job_id == mine:
            found.ours = True
        elif actor.state == "ALIVE":
            found.others[f"{actor.class_name} (job {actor.job_id})"] += 1
    return found


class Coming:
    """Says after 10 s that others hold what workers need, and after 60 s whatever they wait for."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        worker = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
        self.worker = {name: amount for name, amount in worker.items() if amount}
        self.fewest = cluster.fewest_workers
        self.clock = clock
        self.shared, self._lacked = True, False
        self.again()

    def begin(self, *, shared: bool) -> None:
        """No workers are there yet. `shared`: others may use the cluster."""
        self.shared = shared
        self._lacked = bool(self._missing())
        self.again()

    def again(self) -> None:
        """None are waited for, or those that were are there."""
        self._began, self._next = self.clock(), FIRST_S

    def look(self) -> None:
        """Speak, if it is time."""
        lasted = self.clock() - self._began
        if lasted < self._next:
            return
        what = self._what() or (LOADING if lasted >= COMING_S else None)
        if what:
            log.warning("waiting for %s (%.0f s)", what, lasted)
        self._next = lasted + AGAIN_S if what else COMING_S

    def _missing(self) -> dict[str, str]:
        if not self.shared:
            return {}
        there, free = ray.cluster_resources(), ray.available_resources()
        return {
            name: f"of {there.get(name, 0.0):g} {name}s {free.get(name, 0.0):g} are free"
            for name, amount in self.worker.items()
            if free.get(name, 0.0) < amount * self.fewest
        }

    def _what(self) -> str | None:
        """What others hold; None if nothing says that they do."""
        missing = self._missing()
        found = holders(list(missing)) if missing else None
        if not missing or (found.ours if found else not self._lacked):
            return None
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.worker.items())
        text = f"workers to come up, with {each} each, {self.fewest} at least; {', '.join(missing.values())}"
        if found is None:
            return f"{text}, if these workers do not hold the others"
        return f"{text}: of others' jobs {found} hold some" if found.others else text

"""What an `ekd run` writes to MLflow: one parent run, one child per training run.

Only the driver process uses it. Opening it can fail and then stops the run; afterwards no write stops
training. What MLflow does not have yet waits in memory, and is tried again; what is lost with the memory
is in the run's storage too, from which it can be written at any time (`orchestrator.pipeline.projection`).
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from orchestrator.tracking.address import redacted
from orchestrator.tracking.clients import Confirmed
from orchestrator.tracking.connection import connect, explained
from orchestrator.tracking.run_state import PARENT, RunState, RunStatus, Unwritten
from orchestrator.tracking.runs import Runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 5.0
"""Age at which waiting values are written by the next `log_metrics`."""
FLUSH_VALUES = 500
"""Their number at which they are."""
MOST_WAITING = 200_000
"""Values that wait in memory at most while MLflow is away; the rest is left to the run's storage."""


class _Patience:
    """When to try again: after 5 s, then after twice as long each time, up to 2 minutes."""

    FIRST_S = 5.0
    LAST_S = 120.0

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._until = 0.0

    def postpone(self, now: float) -> None:
        self.delay_s = min(max(self.FIRST_S, 2 * self.delay_s), self.LAST_S)
        self._until = now + self.delay_s

    def reset(self) -> None:
        self.delay_s = 0.0

    def over(self, now: float) -> bool:
        return self.delay_s == 0 or now >= self._until


class Tracker:
    """The MLflow runs of one `ekd run`, by name: `PARENT` and its children. Make one with `Tracker.open`.

    Attributes:
        uri: the tracking URI; it may hold credentials (`redacted` it before showing it).
        client: MLflow's client, for `orchestrator.registry`.
        ekd_run_id: the `ekd run`.
        storage_uri: its storage.
        experiment_id: the MLflow experiment.
        run_id: the MLflow id of the parent run.
    """

    def __init__(
        self, uri: str, client: "MlflowClient", runs: Runs, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.uri = uri
        self.client = client
        self.ekd_run_id, self.storage_uri = runs.ekd_run_id, runs.storage_uri
        self.experiment_id = runs.experiment_id
        self.run_id = runs.begin(PARENT)
        self._runs = runs
        self._clock = clock
        self._unwritten: dict[str, Unwritten] = {PARENT: Unwritten()}
        self._since: float | None = None
        # Artifacts may lie in another place than the rest (S3), which is away on its own.
        self._patience, self._artifact_patience = _Patience(), _Patience()

    @classmethod
    def open(
        cls,
        uri: str,
        experiment: str,
        ekd_run_id: str,
        *,
        instance: str,
        storage_uri: str = "",
        confirm: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = log.warning,
    ) -> "Tracker":
        """Open the parent run: the one of an earlier start of this `ekd run` if there is one.

        Args:
            uri: from `resolve_tracking_uri`.
            experiment: MLflow experiment, created when missing.
            ekd_run_id: the `ekd run`; name of the parent run.
            instance: tells it from another run with the same id; a manifest's time of creation does.
            storage_uri: the run's storage, where a new experiment's artifacts may be kept.
            confirm: called before each write; raises if the run is another driver's now.
            warn: called with a line when what somebody deleted is restored.

        Raises `TrackingError`: the store cannot be used.
        """
        client = cast("MlflowClient", Confirmed(connect(uri), confirm))
        with explained(uri, "open a run in"):
            runs = Runs(client, uri, experiment, ekd_run_id, instance, storage_uri, confirm, warn)
            return cls(uri, client, runs)

    def child(self, name: str) -> str:
        """The MLflow id of the training run `name`, which is created if there is none.

        Raises `TrackingError`: the store cannot be reached.
        """
        with explained(self.uri, "create a run in"):
            return self._runs.open(name)

    @property
    def waiting(self) -> bool:
        """Whether MLflow lacks something."""
        return any(not unwritten.nothing for unwritten in self._unwritten.values())

    def show(self, states: Mapping[str, RunState]) -> None:
        """Write what the runs lack of `states`, each of which has all metrics of its run so far."""
        for name, state in states.items():
            self._add(name, state)
            self._unwritten[name].whole = True
            if self._values() >= FLUSH_VALUES:
                self.flush()
        self.flush()

    def log_metrics(self, name: str, values: Mapping[str, float], step: int) -> None:
        """Values of one step, written in batches; a step that the run already has is left out."""
        state = RunState()
        state.add_metrics(values, step)
        self._add(name, state)
        if self._since is None:
            self._since = self._clock()
        if self._values() >= FLUSH_VALUES or self._clock() - self._since >= FLUSH_EVERY_S:
            self.flush()

    def finish(self, name: str, status: RunStatus) -> None:
        """End a run."""
        self._add(name, RunState(status=status))
        self.flush()

    def flush(self, *, force: bool = False) -> bool:
        """Write what waits, artifacts last; whether nothing waits any more.

        While MLflow cannot be reached nothing is tried before a delay that doubles from 5 s to 2
        minutes, so that a dead server costs training next to nothing; `force` tries now.
        """
        self._since = None
        for patience, write in (
            (self._patience, self._runs.write),
            (self._artifact_patience, self._runs.write_artifacts),
        ):
            if not force and not patience.over(self._clock()):
                break
            try:
                for name, unwritten in self._unwritten.items():
                    write(name, unwritten)
            except Exception as error:
                self._runs.forget()
                if patience.delay_s == 0:
                    log.warning("MLflow cannot be written, and is tried again: %s", redacted(str(error)))
                patience.postpone(self._clock())
                break
            patience.reset()
        if self._values() > MOST_WAITING:
            log.warning("MLflow has been away for long: what is measured is left to the run's storage")
            for unwritten in self._unwritten.values():
                unwritten.drop_metrics()
        self._unwritten = {
            name: unwritten
            for name, unwritten in self._unwritten.items()
            if name == PARENT or not unwritten.nothing
        }
        return not self.waiting

    def close(self, status: RunStatus) -> bool:
        """End the parent run, and every child that has not ended; whether MLflow has all that was written.

        Also those that this process does not know of: an earlier one that was killed left them, or an
        interrupt came while one was created.
        """
        for name, unwritten in self._unwritten.items():
            if unwritten.status is None or name == PARENT:
                self._add(name, RunState(status=status))
        if not self.flush(force=True):
            return False
        try:
            running = self._runs.running()
        except Exception as error:
            log.debug("whether children are left running is not known: %s", redacted(str(error)))
            return False
        for name in running:
            self._add(name, RunState(status=status))
        return self.flush(force=True)

    def _add(self, name: str, state: RunState) -> None:
        self._unwritten.setdefault(name, Unwritten()).add(state)

    def _values(self) -> int:
        return sum(len(unwritten.metrics) for unwritten in self._unwritten.values())

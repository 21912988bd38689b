"""What the stages of one run share: where things are, and the training runs in their worker groups."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ekd_train.persistence.networks import Networks
from ekd_train.persistence.records import MemberWeights, NetworkRecord, PredictionsRecord
from ekd_train.settings import Evaluation, MemberWeighing, TrainingRun
from orchestrator.errors import EkdError
from orchestrator.pipeline.lease import Lease, TakenOver
from orchestrator.pipeline.manifest import Manifest
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.projection import network_params, network_state, project
from orchestrator.pipeline.shared_data import share
from orchestrator.pipeline.training_now import Noter
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.preflight import Checked, check_capacity
from orchestrator.runtime import ray_session, worker_pool
from orchestrator.runtime.address import wanted_address
from orchestrator.runtime.event import Done, Event, Failed, Restarted, Started, Validated
from orchestrator.runtime.ray_errors import remedy_in
from orchestrator.storage import StorageError
from orchestrator.storage.vendor_settings import environment
from orchestrator.tracking import Tracker
from orchestrator.tracking.run_state import RunState
from orchestrator.tuning.request import SearchRequest

STARTED_AGAIN = "are started again and continue from the last checkpoint"

ENDING_S = 60.0
"""How long the end of the worker groups is waited for at most."""


class RunFailed(EkdError):
    """The run cannot go on; one line says why. What is done is kept."""


@dataclass
class RunContext:
    """One run in progress."""

    checked: Checked
    manifest: Manifest
    view: View
    local_folder: Path
    """On this machine, for logs."""
    lease: Lease | None = None
    """Of the run, by this process."""
    request: SearchRequest | None = None
    """What is searched, if anything."""
    records: dict[str, NetworkRecord | MemberWeights | PredictionsRecord] = field(default_factory=dict)
    """What finished jobs of this start have reported, by name."""
    beside: list[TrainingRun] = field(default_factory=list)
    """What is trained while the last trials of a search leave workers idle."""
    tracker_: Tracker | None = None
    _workers: worker_pool.WorkerPool | None = None
    _capacity: Capacity | None = None
    _groups: int = 0
    _planned: list[TrainingRun] = field(default_factory=list)
    """Not queued yet."""
    _submitted: dict[str, TrainingRun | MemberWeighing | Evaluation] = field(default_factory=dict)
    _given: dict[str, TrainingRun | MemberWeighing | Evaluation] = field(default_factory=dict)
    """What worker groups were to do, by name."""
    _ending: Future[bool] | None = None
    _noter: Noter = field(init=False)

    def __post_init__(self) -> None:
        self._noter = Noter(self.checked.storage)

    @property
    def tracker(self) -> Tracker:
        """The MLflow runs; open from the start of the pipeline on."""
        assert self.tracker_ is not None
        return self.tracker_

    @property
    def networks(self) -> Networks:
        """The run's."""
        checked = self.checked
        return networks_of(checked.storage, checked.run_id, checked.experiment, checked.description)

    @property
    def log_file(self) -> Path:
        """Where Ray's and libraries' messages go."""
        return self.local_folder / "logs" / "ray.log"

    def plan(self, runs: Iterable[TrainingRun]) -> None:
        """Queue each training run as soon as the networks that it needs are there; of those that can begin
        at once, the given ones first: what they are worth is known before hours are spent beside them."""
        self._planned += runs
        self._submit_ready()

    def submit(self, jobs: Sequence[TrainingRun | MemberWeighing | Evaluation]) -> None:
        """Queue jobs that were not queued before; of what is stored, by whatever run, the record is taken."""
        new = [job for job in jobs if self._submitted.get(job.name) != job]
        for job in new:
            self._submitted[job.name] = job
            self.records.pop(job.name, None)  # of other settings
        if queued := [job for job in new if not isinstance(job, TrainingRun) or not self._found(job)]:
            runs = len(queued) + len(self._planned)
            self._make_room(runs)
            self._given |= {job.name: job for job in queued}
            self._start_workers(runs).add(queued)

    def lacking(self, runs: Sequence[TrainingRun]) -> list[TrainingRun]:
        """Those of `runs` that are not stored; of the others the record is taken at once."""
        return [run for run in runs if self._submitted.get(run.name) != run and not self._found(run)]

    def wait(self, jobs: Sequence[TrainingRun | MemberWeighing | Evaluation]) -> list[Any]:
        """Submit `jobs` and wait until all are done; their records, in order. Raises `RunFailed`.

        A `NetworkRecord` of a training run, `MemberWeights` of a weighing, a `PredictionsRecord` of an
        evaluation.
        """
        self.submit(jobs)
        while any(job.name not in self.records for job in jobs):
            self.go_on()
            for event in self._start_workers().poll_events():
                self._handle(event)
            self.tracker.flush()
        return [self.records[job.name] for job in jobs]

    def work_beside(self) -> None:
        """Train `beside` on what the last trials leave idle; note what is reported, without waiting for it.

        In a Ray of our own the workers stay, for what comes after the search; on a cluster, which may lose
        hosts, they end, so that no trial that is started again waits for what they hold.
        """
        own, at_once = self.ray().own, self.view.at_once
        if own:
            self._start_workers(1)
        self.plan(self.beside)
        self.beside = []
        self.view.at_once = at_once  # the last trials go on
        if self._workers is not None:
            for event in self._workers.poll_events(0):
                self._handle(event)
            if not own and self._submitted.keys() <= self.records.keys():
                self.end_workers()

    def trials_are_over(self) -> None:
        """From here on nothing trains but what worker groups do."""
        if self._workers is not None:
            self.view.at_once = self._groups

    def wait_for_queued(self) -> None:
        """Wait until every job that was queued is done. Raises `RunFailed`."""
        self.wait(list(self._submitted.values()))

    @property
    def taken_over(self) -> str | None:
        """Why this process does not own the run any more; None: it does."""
        try:
            self.stop_if_taken_over()
        except TakenOver as error:
            return str(error)
        return None

    def stop_if_taken_over(self) -> None:
        """Raise `TakenOver` if another driver owns the run, or may: two would write over each other."""
        if self.lease is not None:
            self.lease.check()

    def go_on(self) -> None:
        """Before whatever comes next: note what is training. Raises `TakenOver`."""
        self.stop_if_taken_over()
        self._noter.note(self.view.runs)

    def show_in_mlflow(self) -> None:
        """Write to MLflow what it lacks of all that is stored."""
        self.tracker.flush(force=True)  # MLflow may be back since it was tried last
        self.tracker.show(project(self.checked.storage, self.checked.experiment))

    def ray(self) -> Capacity:
        """What the cluster has; Ray is started, or connected to, on first use."""
        if self._capacity is None:
            experiment = self.checked.experiment
            address = wanted_address(experiment.cluster)
            self.view.say("starting Ray" if address is None else f"connecting to Ray at {address}")
            addresses = environment(experiment.storage.endpoint_url)
            self._capacity = ray_session.start_ray(experiment.cluster, self.log_file, addresses)
            check_capacity(experiment, self._capacity)
        return self._capacity

    def end_workers(self) -> bool:
        """End the worker groups, so that what they held is free; the next job starts them again.

        True if all of them ended in time.
        """
        ended = self._workers is None or self._workers.close()
        self._workers = None
        return ended

    def begin_to_end(self) -> None:
        """End the worker groups meanwhile: nothing is trained any more, and machines cost money."""
        if self._workers is not None:
            self._ending, self._workers = self._workers.close_meanwhile(), None

    def close(self, *, failed: bool = False) -> None:
        """End the worker groups and leave Ray.

        After a failure Ray is left when the process exits: leaving it while a thread still waits for
        workers can end the process on the spot, before it has said what failed.
        """
        if not self.taken_over:
            self._noter.forget()
        if failed:
            if self._workers is not None:
                self._workers.cancel()
            return
        ended = self._ending.result(ENDING_S) if self._ending is not None else self.end_workers()
        if ended and self._capacity is not None:
            self._capacity = None
            ray_session.stop_ray()

    def _make_room(self, runs: int) -> None:
        """End worker groups, when they have done what they were given, where `runs` could use more of them:
        beside the last trials of a search there was room for one."""
        if self._workers is None:
            return
        wanted = worker_pool.groups_for(self.checked.experiment.cluster, self.ray(), self._useful(runs))
        while self._workers is not None and self._groups < wanted:
            if busy := [job for job in self._given.values() if job.name not in self.records]:
                self.wait(busy)
            else:
                self.end_workers()

    def _useful(self, runs: int) -> int:
        return min(runs, self.checked.experiment.teacher_count + 1)

    def _start_workers(self, runs: int = 1) -> worker_pool.WorkerPool:
        """Of as many groups as there is room for and `runs`, which are left to train, can use."""
        if self._workers is None:
            experiment, capacity = self.checked.experiment, self.ray()
            self._workers = worker_pool.WorkerPool(
                experiment.cluster,
                self.networks,
                share(self.checked.dataset, self.checked.storage, capacity, self.view),
                experiment.storage.keep_checkpoints,
                experiment.code,
            )
            self._groups = self.view.at_once = self._workers.start(capacity, self._useful(runs))
            idle = capacity.unused_gpus(experiment.cluster)
            logs = ray_session.ray_logs() or "on the head node"
            self.view.say(f"Ray: {capacity.describe()}{idle}; Ray's session logs: {logs}")
            self.view.say(
                f"starting workers, for {self._groups} training run{'s' * (self._groups > 1)} at a time"
            )
        return self._workers

    def _found(self, run: TrainingRun) -> bool:
        """Take the network from storage, if it is there."""
        record = self.networks.find(run, self.view.warn)
        if record is not None:
            self.networks.refer(run, record)
            self._submitted[run.name] = run
            self._handle(Done(run=run.name, record=record))
        return record is not None

    def _submit_ready(self) -> None:
        ready = [run for run in self._planned if all(other.name in self.records for other in run.needs)]
        ready.sort(key=lambda run: run.role != "given")
        self._planned = [run for run in self._planned if run not in ready]
        self.submit(ready)

    def _handle(self, event: Event) -> None:
        self.view.show(event)
        match event:
            case Started() if isinstance(job := self._submitted[event.run], TrainingRun):
                self.tracker.show({event.run: RunState(params=network_params(job))})
            case Validated():
                values = dict(event.record)
                self.tracker.log_metrics(event.run, values, int(values.pop("epoch")))
            case Done(record=NetworkRecord() | MemberWeights() | PredictionsRecord() as made):
                self.records[event.run] = made
                self._submit_ready()
                job = self._submitted[event.run]
                if isinstance(made, NetworkRecord) and isinstance(job, TrainingRun):
                    # With epochs whose events died with an earlier driver.
                    state = network_state(made, self.checked.run_id)
                    state.params = network_params(job)
                    self.tracker.show({event.run: state})
            case Failed(failure="hopeless"):
                if self.lease is not None:  # a worker may have seen first that the run is not ours any more
                    with suppress(StorageError):
                        self.lease.confirm()
                self.tracker.finish(event.run, "FAILED")
                remedy = f"; {remedy}" if (remedy := remedy_in(event.error)) else ""
                failed = RunFailed(f"{event.run}: {event.reason}{remedy}")
                failed.continues = False  # it would end there again
                raise failed
            case Failed():
                self.view.warn(f"{event.run}: {event.reason}; its workers {STARTED_AGAIN}")
            case Restarted():
                self.view.warn(f"{event.run}: workers were lost or have come; all {STARTED_AGAIN}")

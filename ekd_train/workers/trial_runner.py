"""A trial of a search: the same settings trained from one seed or several, an epoch at a time.

What decides how long a trial trains is outside; it asks for one validated epoch after another.
Ray is not known here.
"""

import time
import warnings
from collections.abc import Mapping

import numpy as np
import torch

from ekd_train.data.tensors import TrainingData
from ekd_train.distributed import Workers
from ekd_train.models.build_network import build_network
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.persistence.networks import Networks
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import TrainingRun, TrialStep
from ekd_train.training.loop import Loop
from ekd_train.training.reporter import Reporter
from ekd_train.training.state import quality, selected_by
from ekd_train.workers.jobs import keep_trained


def checkpoint_prefix(trial: str, seed: int) -> str:
    """Where the checkpoints of a trial's run number `seed` are stored."""
    return f"trials/{trial}/seed-{seed}"


def network_arrays(networks: Mapping[str, torch.nn.Module]) -> dict[str, np.ndarray]:
    """The weights of finished networks by name, to be shared between processes (`TrialRunner`)."""
    return {
        f"networks/{name}/{key}": value.detach().cpu().numpy()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


class TrialRunner:
    """Trains one trial after another; keeps the one that is being trained between its steps.

    Args:
        data: what trials see: no test images.
        networks: of the search; holds the finished teachers, and what pruned students start from. A
            student that any run has trained is taken from them, and one that is trained in full is added.
        workers: who trains together; all of them make the same calls.
        keep_checkpoints: of each run of a trial.
        arrays: `network_arrays` of the teachers, whose memory is shared with whoever else has
            them (on the CPU; a GPU has its own copy); teachers that are not there are loaded.
    """

    def __init__(
        self,
        data: TrainingData,
        networks: Networks,
        workers: Workers = Workers(),
        keep_checkpoints: int = 1,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.data, self.networks, self.workers = data, networks, workers
        self.keep, self.arrays = keep_checkpoints, arrays or {}
        self._teachers: dict[str, torch.nn.Module] = {}
        self._at: tuple[str, tuple[TrainingRun, ...]] | None = None
        self._trained: list[Loop | NetworkRecord] = []
        self._seconds = 0.0

    def step(self, step: TrialStep, reporter: Reporter) -> dict[str, float]:
        """The record of the first validated epoch after `step.after`, trained if it was not yet.

        Every value is the mean over the seeds; `score` is the mean of the best validation
        accuracies so far of the averaged students (of the members' ensembles where
        `student.select_by` says so), `score_nll` that of their NLLs there, and
        `seeds/<i>/score` each alone; `finished` is 1 when it was the last epoch. But `seconds` is their
        sum: of training and validation for this trial so far, earlier starts' included, as far as these were
        stored. What another run or trial has trained took none.
        """
        histories = []
        for seed, (run, made) in enumerate(zip(step.runs, self._open(step, reporter), strict=True)):
            if isinstance(made, Loop):
                with made.checkpoints.storing():  # whoever learns of this step may remove them
                    began = time.perf_counter()
                    while not any(record["epoch"] > step.after for record in made.history):
                        made.advance()
                    self._seconds += time.perf_counter() - began
                if made.finished:
                    place = checkpoint_prefix(step.name, seed)
                    made = self._trained[seed] = keep_trained(
                        self.networks, run, made.trained(), self.workers, trial=step.name, place=place
                    )
            count = next(i for i, r in enumerate(made.history, 1) if r["epoch"] > step.after)
            histories.append(list(made.history[:count]))
        first = step.runs[0]
        summary = summarise(histories, first.training.epochs, selected_by(first))
        return summary | {"seconds": self._seconds}

    def close(self) -> None:
        """Let the trial go, so that its memory is free."""
        self._at, self._trained, self._seconds = None, [], 0.0

    def _open(self, step: TrialStep, reporter: Reporter) -> list[Loop | NetworkRecord]:
        if self._at != (step.name, step.runs):
            self.close()
            prefixes = [checkpoint_prefix(step.name, seed) for seed in range(len(step.runs))]
            found = [self.networks.find(run) for run in step.runs]
            self.workers.barrier()  # all have looked before the first one writes
            for prefix, run, record in zip(prefixes, step.runs, found, strict=True):
                if record is not None and self.workers.is_first:
                    self.networks.refer(run, record, prefix)
                self._trained.append(made := record or self._loop(prefix, run, reporter))
                self._seconds += self._spent_before(made, step.name)
            self._at = (step.name, step.runs)
        return self._trained

    def _spent_before(self, made: Loop | NetworkRecord, trial: str) -> float:
        """Seconds that earlier starts of `trial` spent on one of its networks."""
        if isinstance(made, Loop):
            return made.progress.seconds
        return 0.0 if made.reused_by(f"{self.networks.run_id}/{trial}") else made.seconds

    def _loop(self, prefix: str, run: TrainingRun, reporter: Reporter) -> Loop:
        checkpoints = Checkpoints(self.networks.run, prefix, self.networks.identity(run), keep=self.keep)
        start = self.networks.starting_weights(run)
        shared = run.sharing_predictions()  # the same student to rounding, so of the same identity
        return Loop(shared, self.data, checkpoints, reporter, self.workers, self._taught_by(run), start)

    def _taught_by(self, run: TrainingRun) -> Teachers | None:
        for teacher in run.teachers:
            if teacher.name not in self._teachers:
                self._teachers[teacher.name] = self._load(teacher).to(self.workers.device)
        return Teachers([self._teachers[teacher.name] for teacher in run.teachers]) if run.teachers else None

    def _load(self, run: TrainingRun) -> torch.nn.Module:
        prefix = f"networks/{run.name}/"
        shared = {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}
        if not shared:
            return self.networks.load(run)
        network = build_network(run, self.networks.data)
        with warnings.catch_warnings():  # Ray's shared arrays are read-only, and so is a teacher
            warnings.filterwarnings("ignore", message=".*not writable.*")
            weights = {key: torch.from_numpy(value) for key, value in shared.items()}
        network.load_state_dict(weights, assign=True)
        return network.eval()


def summarise(histories: list[list[dict[str, float]]], epochs: int, by: str) -> dict[str, float]:
    """One record of a trial from its runs' records so far; see `TrialRunner.step`."""
    last = [history[-1] for history in histories]
    shared = [key for key in last[0] if all(key in record for record in last)]
    record = {key: float(np.mean([r[key] for r in last])) for key in shared}
    best = [max(quality(r, by) for r in history) for history in histories]
    record["score"] = float(np.mean([accuracy for accuracy, _ in best]))
    record["score_nll"] = float(np.mean([-minus_nll for _, minus_nll in best]))
    record |= {f"seeds/{i}/score": accuracy for i, (accuracy, _) in enumerate(best) if len(best) > 1}
    record["finished"] = float(record["epoch"] >= epochs)
    return record

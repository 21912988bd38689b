"""What a search costs beside its training, and what stopping early saves. Needs Ray; takes minutes.

python -m benchmarks.search [overhead | simulated | memory | stopping | fashion-mnist]...
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.result import Result, Skipped, table
from benchmarks.timing import conditions
from ekd_train.data import DataDescription, DataError, describe, load_dataset
from ekd_train.data.shared import SharedData
from ekd_train.data.tensors import place
from ekd_train.distributed import Workers
from ekd_train.persistence.checkpoint import load_record
from ekd_train.persistence.networks import Networks
from ekd_train.settings import TrialStep
from ekd_train.training.reporter import Silent
from ekd_train.workers.jobs import execute
from ekd_train.workers.trial_runner import TrialRunner, network_arrays
from orchestrator.experiment.schema import Experiment, load_experiment
from orchestrator.pipeline.progress import View
from orchestrator.runtime.environment import in_the_environment
from orchestrator.runtime.ray_session import variables_for_workers
from orchestrator.storage import Storage, open_storage
from orchestrator.tuning.callback import SearchCallback
from orchestrator.tuning.pool import baseline_values, pool_experiment, trial_experiment
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.search import Search, run_search
from orchestrator.tuning.searchers import build_searcher
from orchestrator.tuning.space import load_space
from orchestrator.tuning.trial_executor import InProcess, TrialExecutor, TrialSetup, open_executor
from orchestrator.tuning.trial_store import TrialRecord, TrialStore, best_trial

TARGET = 8
SIMULATED, STOPPED, TIMED = 1000, 24, 8
EPOCHS = 27
DIGITS = [
    "teachers.training.epochs=30",
    f"student.training.epochs={EPOCHS}",
    "student.training.schedule.warmup_epochs=0",
    f"student.training.checkpoint_every={EPOCHS}",
]
FASHION_MNIST = [
    "data.train_fraction=0.02",
    "data.validation_size=1000",
    "data.test_size=100",
    "student.architecture.stem_channels=4",
    "teachers.architecture.stem_channels=4",
    "teachers.training.epochs=60",
    f"student.training.epochs={EPOCHS}",
    f"student.training.checkpoint_every={EPOCHS}",
]
"""2 % of the images, and a narrow network that can fit them: 24 trials in full in minutes."""
FASHION_MNIST_IMAGES = 60_000
"""The data that memory is measured with is as large as Fashion-MNIST, and random."""


class Timed(SearchCallback):
    """Also knows when every trial ended."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ends: list[float] = []

    def _end(self, record: TrialRecord, *args: Any) -> None:
        super()._end(record, *args)
        self.ends.append(time.perf_counter())


class Simulated:
    """Trials without training: a learning curve that depends on the temperature alone."""

    def __init__(self, setup: TrialSetup) -> None:
        self.setup = setup

    def step(self, step: TrialStep) -> dict[str, float]:
        run, epoch = step.runs[0], step.after + 1
        assert run.distillation is not None
        score = (1 - math.exp(-epoch / 3)) / (1 + abs(math.log(run.distillation.temperature / 4)))
        record = {"epoch": float(epoch), "averaged/accuracy": score, "averaged/nll": 1 - score}
        finished = float(epoch >= run.training.epochs)
        return record | {"score": score, "score_nll": 1 - score, "finished": finished}

    def close(self) -> None:
        """Nothing is held."""


class Weighed(Simulated):
    """Builds a trial, trains one batch, reads all images, and weighs its process beside the others."""

    def step(self, step: TrialStep) -> dict[str, float]:
        inside = InProcess(self.setup)
        (loop,) = inside.runner._open(step.name, step.runs, Silent())
        loop.step(loop.batches.draw(0, torch.arange(loop.settings.batch_size)))
        float(loop.data.train.images.float().mean())
        store, together = self.setup.storage, int(self.setup.store.read("weigh/together"))
        store.write(f"weigh/ready/{step.name}", b"")
        while len(store.list("weigh/ready")) < together:
            time.sleep(0.1)
        fields = dict(
            line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        )
        own = [sum(int(fields[name].split()[0]) for name in names) / 1024 for names in MEMORY]
        store.write(f"weigh/{step.name}", " ".join(map(str, own)).encode())
        return super().step(step.model_copy(update={"after": step.runs[0].training.epochs - 1}))


MEMORY = (("Pss",), ("Private_Clean", "Private_Dirty"), ("Shared_Clean", "Shared_Dirty"))


def search(
    experiment: Experiment,
    store: Storage,
    data: Any,
    at_once: int,
    executor: Callable[[TrialSetup], TrialExecutor],
    **options: Any,
) -> tuple[TrialStore, float, list[float]]:
    """A search without MLflow and without a final training; its trials, seconds, and when they ended."""
    request = SearchRequest.model_validate({"space": load_space("student"), **options})
    pool = pool_experiment(experiment, request.space.domains)
    baseline = baseline_values(pool, request.space.domains)
    trials, searcher = TrialStore(store), build_searcher(request, experiment.seed, baseline)
    view = View()
    view.console.quiet = True
    callback = Timed(trials, searcher, None, view, request.trials)
    description = describe(load_dataset(experiment.data))
    setup = TrialSetup(
        networks_in(store, description, "trials"), pool.resolved(), request.seeds, data, executor
    )
    began = time.perf_counter()
    run_search(Search(request, pool, trials, searcher, setup), callback, at_once, None)
    return trials, time.perf_counter() - began, callback.ends


def networks_in(store: Storage, description: DataDescription, shared: str = "networks") -> Networks:
    """Those of a benchmark; trials' lie below `trials`, which is emptied before others are timed."""
    return Networks(store, store.child(shared), description, "benchmark")


def taught(experiment: Experiment, store: Storage) -> Any:
    """Train the teachers; they and the data in Ray's object store."""
    import ray

    dataset = load_dataset(experiment.data)
    placed = place(dataset, torch.device("cpu"))
    runs = experiment.teacher_runs()
    networks = networks_in(store, placed.description)
    for run in runs:
        execute(run, placed, networks, Silent(), Workers())
    teachers = {run.name: networks.load(run) for run in runs}
    return ray.put(SharedData(dataset, network_arrays(teachers)))


def overhead(folder: Path) -> list[Result]:
    """Seconds that a trial costs beyond its training, and trials an hour."""
    experiment, store = load_experiment("digits", DIGITS), open_storage(str(folder / "overhead"))
    data, found, results = taught(experiment, store), {}, []
    for at_once in (1, 2):
        store.delete_prefix("trials")
        searched, seconds, ends = search(
            experiment, store, data, at_once, open_executor, trials=TIMED, scheduler="none"
        )
        trained = [_trained_seconds(store, record.name) for record in searched.trials.values()]
        found[at_once] = 3600 * TIMED / seconds
        if at_once == 1:
            extra = (ends[-1] - ends[0]) / (TIMED - 1) - statistics.mean(trained[1:])
            note = f"beside {statistics.mean(trained):.2f} s of training; all {TIMED}: {seconds:.1f} s"
            results.append(
                Result(TARGET, "an extra trial, beyond its training", extra, 1, "smaller", "s", note)
            )
    results.append(Result(TARGET, "trials an hour, one at a time", found[1], unit="/h"))
    speed_up = found[2] / found[1]
    results.append(
        Result(TARGET, "trials an hour, two at a time over one", speed_up, note=f"{found[2]:.0f}/h")
    )
    return results


def simulated(folder: Path) -> list[Result]:
    """Trials without training through the same path: wall time and the driver's memory."""
    experiment, store = load_experiment("digits", DIGITS), open_storage(str(folder / "simulated"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    searched, seconds, _ = search(experiment, store, None, 2, Simulated, trials=SIMULATED)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results = sum(len(record.history) for record in searched.trials.values())
    return [
        Result(
            TARGET, f"{SIMULATED} trials that compute nothing", seconds, unit="s", note=f"{results} results"
        ),
        Result(TARGET, "each result of theirs", 1000 * seconds / results, unit="ms"),
        Result(TARGET, "memory that they add to the driver", grown, unit="MiB"),
    ]


def memory(folder: Path) -> list[Result | Skipped]:
    """Of the processes of trials, with one and with four of them side by side."""
    import ray

    if not Path("/proc/self/smaps_rollup").exists():
        return [Skipped(TARGET, "memory of trials", "needs Linux's /proc")]
    experiment, store = load_experiment("digits", DIGITS), open_storage(str(folder / "memory"))
    data = taught(experiment, store)
    arrays, description = ray.get(data)
    random = np.random.default_rng(0)
    images = random.integers(
        0, 256, (FASHION_MNIST_IMAGES, *arrays["train/images"].shape[1:-2], 28, 28), np.uint8
    )
    labels = random.integers(0, 10, FASHION_MNIST_IMAGES)
    data = ray.put((arrays | {"train/images": images, "train/labels": labels}, description))
    total: dict[int, list[float]] = {}
    for together in (1, 4):
        store.delete_prefix("trials")
        store.delete_prefix("weigh")
        store.write("weigh/together", str(together).encode())
        search(experiment, store, data, together, Weighed, trials=together, scheduler="none")
        keys = [key for key in store.list("weigh") if key.startswith("weigh/trial-")]
        weighed = [store.read(key).decode().split() for key in keys]
        total[together] = [sum(map(float, column)) for column in zip(*weighed, strict=True)]
    (one, _, _), (four, private, shared) = total[1], total[4]
    note = f"four: {four:.0f} MiB in all (Pss), each {private / 4:.0f} private and {shared / 4:.0f} shared"
    return [
        Result(
            TARGET, "memory of one trial (Pss)", one, unit="MiB", note=f"{images.nbytes >> 20} MiB are images"
        ),
        Result(TARGET, "memory of each further trial at a time", (four - one) / 3, unit="MiB", note=note),
    ]


def stopping(folder: Path) -> list[Result | Skipped]:
    """Training passes that early stopping saves on a fixed search on digits, and how good the best is."""
    return _stopping(folder, load_experiment("digits", DIGITS), ("none", "asha"))


def stopping_fashion_mnist(folder: Path) -> list[Result | Skipped]:
    """The same on Fashion-MNIST, for the default scheduler."""
    experiment = load_experiment("fashion_mnist", FASHION_MNIST)
    return _stopping(folder, experiment, ("none", "asha"))


def _stopping(folder: Path, experiment: Experiment, schedulers: tuple[str, ...]) -> list[Result | Skipped]:
    name = experiment.data.name
    store = open_storage(str(folder / name))
    try:
        data = taught(experiment, store)
    except DataError as error:
        return [Skipped(TARGET, f"passes that early stopping saves on {name}", str(error))]
    passes: dict[str, float] = {}
    results: list[Result | Skipped] = []
    for scheduler in schedulers:
        store.delete_prefix("trials")
        searched, seconds, _ = search(
            experiment, store, data, 2, open_executor, trials=STOPPED, scheduler=scheduler
        )
        passes[scheduler] = sum(
            record.full_cost * record.epochs / EPOCHS for record in searched.trials.values()
        )
        found = best_trial(searched.trials)
        assert found is not None
        accuracies = _of_seeds(experiment, data, folder / f"{name}-{scheduler}", found)
        spread = statistics.stdev(accuracies)
        note = (
            f"{seconds:.0f} s, {3600 * STOPPED / seconds:.0f} trials/h; best {found.name}, "
            f"{100 * found.quality[0]:.2f} %; in full from three other seeds "
            f"{100 * statistics.mean(accuracies):.2f} ± {100 * spread:.2f} %"
        )
        saved = 100 * (1 - passes[scheduler] / passes["none"])
        what = f"passes that {scheduler} saves of {STOPPED} trials on {name}"
        results.append(Result(TARGET, what, saved, unit="%", note=note))
    return results


def _of_seeds(experiment: Experiment, data: Any, folder: Path, best: TrialRecord) -> list[float]:
    """Validation accuracies of the averaged student, trained in full from seeds that the search had not."""
    import ray

    store = open_storage(str(folder))
    shared: SharedData = ray.get(data)
    placed = place(shared.dataset, torch.device("cpu"))
    run = trial_experiment(experiment, best.values).student_run()
    runs = tuple(run.model_copy(update={"seed": run.seed + 100 + i}) for i in range(3))
    runner = TrialRunner(
        placed.training, networks_in(store, placed.description, "trials"), arrays=shared.weights
    )
    record = runner.step(TrialStep(name="again", runs=runs, after=run.training.epochs - 1), Silent())
    return [record[f"seeds/{i}/score"] for i in range(3)]


def _trained_seconds(store: Storage, trial: str) -> float:
    keys = [k for k in store.list(f"trials/{trial}/seed-0") if "/epoch-" in k and k.endswith(".json")]
    return float(load_record(store, keys[-1])["state"]["seconds"])


PARTS: dict[str, Callable[[Path], list[Any]]] = {
    "overhead": overhead,
    "simulated": simulated,
    "memory": memory,
    "stopping": stopping,
    "fashion-mnist": stopping_fashion_mnist,
}


def measure(parts: list[str] | None = None) -> list[Result | Skipped]:
    """The parts that are named, or all, on a Ray of its own."""
    import ray

    from orchestrator.runtime.ray_logging import divert_logging

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results: list[Result | Skipped] = []
    with tempfile.TemporaryDirectory(prefix="ekd-search-") as temporary:
        folder = Path(temporary)
        divert_logging(folder / "ray.log")
        # Four, for four trials at a time; where timings are taken, at most two train.
        with in_the_environment(variables_for_workers({}, own=True)):  # as `start_ray` does
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        try:
            for part in parts or PARTS:
                results += PARTS[part](folder)
        finally:
            ray.shutdown()
            torch.set_num_threads(threads)
    return results


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - PARTS.keys():
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(table(measure(sys.argv[1:])))
    print(conditions())

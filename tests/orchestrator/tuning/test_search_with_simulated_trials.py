"""The search itself on a Ray of its own, with trials that compute nothing: who is stopped, who fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ekd_train.settings import TrialStep
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.run_context import RunFailed
from orchestrator.runtime import ray_session
from orchestrator.storage import open_storage
from orchestrator.tuning.callback import SearchCallback
from orchestrator.tuning.domains import LogUniform
from orchestrator.tuning.pool import baseline_values
from orchestrator.tuning.request import SearchRequest, check_request
from orchestrator.tuning.search import Search, run_search
from orchestrator.tuning.searchers import build_searcher
from orchestrator.tuning.space import Space
from orchestrator.tuning.trial_executor import TrialSetup
from orchestrator.tuning.trial_store import TrialStore, best_trial
from orchestrator.tuning.trial_watch import TrialWatch

pytestmark = pytest.mark.slow

EPOCHS = 9
SPACE = Space(
    name="test",
    description="a test",
    domains={"distillation.temperature": LogUniform(log_uniform=(1, 16), reason="a test")},
)


class Simulated:
    """The warmer the better, and every epoch better than the one before; writes down what it did."""

    def __init__(self, setup: TrialSetup) -> None:
        self.store = setup.storage

    def step(self, step: TrialStep) -> dict[str, float]:
        run, epoch = step.runs[0], step.after + 1
        assert run.distillation is not None
        self.store.write(f"seen/{step.name}/{epoch}", str(os.getpid()).encode())
        score = run.distillation.temperature / 20 * epoch / EPOCHS
        record = {"epoch": float(epoch), "averaged/accuracy": score, "averaged/nll": 1.0}
        return record | {"score": score, "score_nll": 1.0, "finished": float(epoch >= EPOCHS)}

    def close(self) -> None:
        """Nothing is held."""


class Diverging(Simulated):
    """Trial 1 diverges in its second epoch."""

    def step(self, step: TrialStep) -> dict[str, float]:
        # Every process of a trial imports this module: no torch.
        from ekd_train.training.errors import TrainingDiverged

        if step.name == "trial-0001" and step.after == 1:
            raise TrainingDiverged("student: the loss became nan at step 7")
        return super().step(step)


class Dying(Simulated):
    """The process of trial 1 is killed once, in its third epoch."""

    def step(self, step: TrialStep) -> dict[str, float]:
        if step.name == "trial-0001" and step.after == 2 and not self.store.exists("killed"):
            self.store.write("killed", b"")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(step)


class Starving(Simulated):
    """Trial 1 finds no memory in its third epoch, once; trial 2 never does."""

    def step(self, step: TrialStep) -> dict[str, float]:
        if step.name == "trial-0002":
            raise MemoryError("no 3 GiB left")
        if step.name == "trial-0001" and step.after == 2 and not self.store.exists("starved"):
            self.store.write("starved", b"")
            raise MemoryError("no 3 GiB left")
        return super().step(step)


class Stopping(Simulated):
    """The process of trial 1 is stopped in its third epoch, once; that of trial 2 whenever it begins."""

    def step(self, step: TrialStep) -> dict[str, float]:
        if step.name == "trial-0001" and step.after == 2 and not self.store.exists("stopped"):
            self.store.write("stopped", b"")
            os.kill(os.getpid(), signal.SIGSTOP)
        if step.name == "trial-0002":
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step(step)


class Hopeless(Simulated):
    """The process of trial 1 is killed whenever it begins."""

    def step(self, step: TrialStep) -> dict[str, float]:
        if step.name == "trial-0001":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(step)


@pytest.fixture(scope="module", autouse=True)
def own_ray(environment_given_back: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ.pop("RAY_ADDRESS", None)
    folder = tmp_path_factory.mktemp("ray")
    ray_session.start_ray(load_experiment("digits").cluster, folder / "ray.log")
    yield
    ray_session.stop_ray()


def search(
    folder: Path,
    executor: type[Simulated] = Simulated,
    at_once: int = 2,
    settings: tuple[str, ...] = (),
    said: list[str] | None = None,
    **options: Any,
) -> TrialStore:
    from training_runs import networks_in  # which the trials' processes, that import this file, cannot

    overrides = [f"student.training.epochs={EPOCHS}", "student.training.schedule.warmup_epochs=0"]
    overrides += ["student.training.evaluate_every=1", "cluster.max_failures=1"]
    experiment = load_experiment("digits", [*overrides, *settings])
    request = SearchRequest.model_validate({"space": SPACE, **options})
    check_request(request, experiment, baseline_values(experiment, SPACE.domains))
    store = open_storage(str(folder))
    trials = TrialStore(store)
    searcher = build_searcher(request, 0, baseline_values(experiment, SPACE.domains))
    view = View()
    view.console.quiet = True
    if said is not None:
        view.warn = said.append  # type: ignore[method-assign]
    watch = TrialWatch(experiment.cluster.liveness)
    callback = SearchCallback(trials, searcher, None, view, request.trials, watch=watch)
    setup = TrialSetup(networks_in(store), experiment.resolved(), 1, None, executor, watch.reporter())
    asked = Search(request, experiment, trials, searcher, setup)
    run_search(asked, callback, at_once, request.time_budget_s)
    watch.close()
    callback.out_of_time()
    return trials


@pytest.mark.parametrize("searcher", ["random", "optuna", "grid"])
def test_every_searcher_runs_all_its_trials(tmp_path: Path, searcher: str) -> None:
    trials = 3 if searcher == "grid" else 5
    found = search(tmp_path, searcher=searcher, scheduler="none", trials=trials)
    assert sorted(found.trials) == list(range(trials))
    assert {record.status for record in found.trials.values()} == {"completed"}
    assert all(record.epochs == EPOCHS for record in found.trials.values())


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_schedulers_stop_the_worse_and_keep_the_best(tmp_path: Path, scheduler: str) -> None:
    found = search(tmp_path, scheduler=scheduler, trials=12)
    assert {record.status for record in found.trials.values()} == {"completed", "pruned"}
    best = best_trial(found.trials)
    assert best is not None
    temperatures = [record.values["distillation.temperature"] for record in found.trials.values()]
    assert best.status == "completed"
    assert best.values["distillation.temperature"] >= sorted(temperatures)[-3]
    for record in found.trials.values():  # a stopped trial trained no epoch that it did not report
        seen = found.storage.list(f"seen/{record.name}")
        assert len(seen) == record.epochs
    assert sum(record.epochs for record in found.trials.values()) < 12 * EPOCHS


@pytest.mark.parametrize(("at_once", "trials"), [(1, 6), (2, 2)])
def test_no_more_trials_train_at_once_than_allowed(tmp_path: Path, at_once: int, trials: int) -> None:
    found = search(tmp_path, Busy, scheduler="none", trials=trials, at_once=at_once)
    assert max(int(found.storage.read(key)) for key in found.storage.list("busy")) == at_once
    assert all(record.ended for record in found.trials.values())


def test_memory_that_is_short_is_waited_for_as_often_as_asked(tmp_path: Path) -> None:
    found = search(tmp_path, Starving, trials=4, scheduler="none")
    assert [found.trials[n].status for n in range(4)] == ["completed", "completed", "failed", "completed"]
    assert found.trials[2].error == "MemoryError: no 3 GiB left"
    assert [r["epoch"] for r in found.trials[1].history] == list(range(1, EPOCHS + 1))


def test_processes_are_reused(tmp_path: Path) -> None:
    found = search(tmp_path, scheduler="none", trials=8)
    processes = {found.storage.read(key) for key in found.storage.list("seen")}
    assert len(processes) <= 3


def test_a_trial_that_diverges_fails_with_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    found = search(tmp_path, Diverging, trials=4, scheduler="none")
    assert found.trials[1].status == "failed"
    assert found.trials[1].error == "TrainingDiverged: student: the loss became nan at step 7"
    assert [found.trials[n].status for n in (0, 2, 3)] == ["completed"] * 3


def test_a_trial_whose_process_is_killed_goes_on_in_another(tmp_path: Path) -> None:
    found = search(tmp_path, Dying, trials=3, scheduler="none")
    assert {record.status for record in found.trials.values()} == {"completed"}
    assert [r["epoch"] for r in found.trials[1].history] == list(range(1, EPOCHS + 1))


def test_a_trial_that_dies_again_and_again_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    found = search(tmp_path, Hopeless, trials=3, scheduler="none")
    assert found.trials[1].status == "failed"
    assert "died" in str(found.trials[1].error)
    assert [found.trials[n].status for n in (0, 2)] == ["completed"] * 2


def test_a_trial_that_stands_still_is_named_and_goes_on_in_another_process_twice_at_most(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    bounds = ("cluster.liveness.said_after_s=10", "cluster.liveness.restart_after_s=20")
    settings = (*bounds, "cluster.max_failures=3")
    found = search(tmp_path, Stopping, settings=settings, said=said, trials=4, scheduler="none")
    assert [found.trials[n].status for n in range(4)] == ["completed", "completed", "failed", "completed"]
    assert [r["epoch"] for r in found.trials[1].history] == list(range(1, EPOCHS + 1))
    assert re.fullmatch(
        r"nothing heard of its process \(\d+ on \S+\) for \d+ s; it was started again 2 times in vain",
        str(found.trials[2].error),
    )
    silent, ended = r"nothing heard of its process \(\d+ on \S+\) for \d+ s", "it is ended"
    lines = [re.sub(silent, "silent", line) for line in said]
    again = f"{ended}, and the trial goes on from its last checkpoint"
    assert {"trial-0001: silent", f"trial-0001: silent: {again}", "trial-0002: silent"} < set(lines), said
    assert [line for line in lines if line.startswith(f"trial-0002: silent: {ended}")] == [
        f"trial-0002: silent: {again}",
        f"trial-0002: silent: {again}",
        f"trial-0002: silent: {ended}; the trial was started again 2 times in vain, and fails",
    ]


def test_trials_that_had_ended_are_not_run_again(tmp_path: Path) -> None:
    first = search(tmp_path, scheduler="asha", trials=6)
    seen = first.storage.list("seen")
    again = search(tmp_path, scheduler="asha", trials=6)
    assert again.trials == first.trials
    assert again.storage.list("seen") == seen


def test_a_driver_that_lost_its_run_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[Path, bytes] = {}

    def lost(*_: object, **__: object) -> None:
        if len(list(tmp_path.glob("seen/*/*"))) > 6:
            kept.update({path: path.read_bytes() for path in tmp_path.glob("trials/*/trial.json")})
            raise RunFailed("process 7 has taken this run over")

    monkeypatch.setattr(SearchCallback, "on_step_begin", lost)
    with pytest.raises(RunFailed, match="process 7"):
        search(tmp_path, trials=6)
    assert kept == {path: path.read_bytes() for path in tmp_path.glob("trials/*/trial.json")}


def test_the_time_budget_ends_a_search(tmp_path: Path) -> None:
    found = search(tmp_path, Slow, trials=50, scheduler="none", time_budget_s=3)
    assert len(found.trials) < 50
    assert any(record.status == "out_of_time" for record in found.trials.values())


class Slow(Simulated):
    """A second for each epoch."""

    def step(self, step: TrialStep) -> dict[str, float]:
        threading.Event().wait(1)
        return super().step(step)


class Busy(Simulated):
    """Writes down how many train with it."""

    def step(self, step: TrialStep) -> dict[str, float]:
        self.store.write(f"working/{step.name}", b"")
        threading.Event().wait(0.5)
        working = len(self.store.list("working"))
        self.store.write(f"busy/{step.name}-{step.after}", str(working).encode())
        self.store.delete(f"working/{step.name}")
        return super().step(step)


def test_importing_the_command_line_loads_neither_ray_nor_optuna() -> None:
    code = "import sys, orchestrator.cli.main as c; c.build_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "optuna", "torch", "numpy"} & set(loaded.stdout.split())

"""The search itself on a Ray of its own, with trials that compute nothing: who is stopped, who fails."""

from __future__ import annotations

import json
import os
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
from orchestrator.tuning.cohorts import brackets
from orchestrator.tuning.domains import LogUniform
from orchestrator.tuning.ledger import Ledger, best_trial
from orchestrator.tuning.proposals import build_proposer
from orchestrator.tuning.recorder import Recorder
from orchestrator.tuning.request import SearchRequest, check_request
from orchestrator.tuning.schedulers import rungs
from orchestrator.tuning.search import Search, run_search
from orchestrator.tuning.space import Space
from orchestrator.tuning.workshops import TrialPost

pytestmark = pytest.mark.slow

EPOCHS = 9
CUT_AFTER_S = 12
SPACE = Space(
    name="test",
    description="a test",
    domains={"distillation.temperature": LogUniform(log_uniform=(1, 16), reason="a test")},
)


class Simulated:
    """The warmer the better, and every epoch better than the one before; writes down what it did."""

    def __init__(self, post: TrialPost) -> None:
        self.store = post.store

    def step(self, step: TrialStep) -> dict[str, float]:
        run, epoch = step.runs[0], step.after + 1
        assert run.distillation is not None
        self.store.write(f"seen/{step.name}/{epoch}", str(os.getpid()).encode())
        score = run.distillation.temperature / 20 * epoch / EPOCHS
        record = {"epoch": float(epoch), "averaged/accuracy": score, "averaged/nll": 1.0}
        return record | {"score": score, "score_nll": 1.0, "finished": float(epoch >= EPOCHS)}

    def save(self, step: TrialStep) -> None:
        """Nothing is kept."""

    def clone(self, step: TrialStep, donor: TrialStep) -> None:
        self.store.write(f"cloned/{step.name}/{donor.name}-{donor.after}", b"")

    def close(self) -> None:
        """Nothing is held."""


class Diverging(Simulated):
    """Trial 1 diverges in its second epoch."""

    def step(self, step: TrialStep) -> dict[str, float]:
        # Every process of a trial imports this module: no torch.
        from ekd_train.training.divergence import TrainingDiverged

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


class DyingWhileOthersWait(Simulated):
    """The process of trial 0 is killed in its third epoch, when others wait for it after the first."""

    def step(self, step: TrialStep) -> dict[str, float]:
        if step.name == "trial-0000" and step.after == 1:
            os.kill(os.getpid(), signal.SIGKILL)
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


def search(folder: Path, workshop: type[Simulated] = Simulated, at_once: int = 2, **options: Any) -> Ledger:
    overrides = [f"student.training.epochs={EPOCHS}", "student.training.schedule.warmup_epochs=0"]
    overrides += ["student.training.evaluate_every=1", "cluster.max_failures=1"]
    experiment = load_experiment("digits", overrides)
    request = SearchRequest.model_validate({"space": SPACE, **options})
    check_request(request, experiment)
    store = open_storage(str(folder))
    ledger = Ledger(store)
    proposer = build_proposer(request, 0)
    view = View.open("test", [], "nowhere")
    view.console.quiet = True
    recorder = Recorder(ledger, proposer, None, view, request.trials)
    post = TrialPost(store, experiment.resolved(), 1, None, workshop)
    asked = Search(request, experiment, store, ledger, proposer, post)
    run_search(asked, recorder, at_once, request.time_budget_s)
    recorder.out_of_time()
    return ledger


@pytest.mark.parametrize("searcher", ["random", "optuna", "grid"])
def test_every_searcher_runs_all_its_trials(tmp_path: Path, searcher: str) -> None:
    trials = 3 if searcher == "grid" else 5
    ledger = search(tmp_path, searcher=searcher, scheduler="none", trials=trials)
    assert sorted(ledger.trials) == list(range(trials))
    assert {record.status for record in ledger.trials.values()} == {"completed"}
    assert all(record.epochs == EPOCHS for record in ledger.trials.values())


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_schedulers_stop_the_worse_and_keep_the_best(tmp_path: Path, scheduler: str) -> None:
    ledger = search(tmp_path, scheduler=scheduler, trials=12)
    assert {record.status for record in ledger.trials.values()} == {"completed", "pruned"}
    best = best_trial(ledger.trials)
    assert best is not None
    temperatures = [record.values["distillation.temperature"] for record in ledger.trials.values()]
    assert best.status == "completed"
    assert best.values["distillation.temperature"] >= sorted(temperatures)[-3]
    for record in ledger.trials.values():  # a stopped trial trained no epoch that it did not report
        seen = ledger.storage.list(f"seen/{record.name}")
        assert len(seen) == record.epochs
    assert sum(record.epochs for record in ledger.trials.values()) < 12 * EPOCHS


def test_hyperband_compares_the_trials_of_a_bracket_and_keeps_the_planned_number(tmp_path: Path) -> None:
    ledger = search(tmp_path, scheduler="hyperband", trials=9)
    stops = rungs("hyperband", 1, EPOCHS, 3)
    assert stops == [1, 3]
    for bracket in brackets(9, stops, 3):
        by_temperature = sorted(
            bracket.numbers, key=lambda n: -ledger.trials[n].values["distillation.temperature"]
        )
        expected = {}
        left = len(by_temperature)
        for stop, kept in zip(bracket.stops, bracket.kept(3), strict=True):
            expected |= dict.fromkeys(by_temperature[kept:left], stop)
            left = kept
        expected |= dict.fromkeys(by_temperature[:left], EPOCHS)
        assert {n: ledger.trials[n].epochs for n in bracket.numbers} == expected
    for record in ledger.trials.values():  # pausing repeats no epoch
        assert len(ledger.storage.list(f"seen/{record.name}")) == record.epochs
        assert [r["epoch"] for r in record.history] == list(range(1, record.epochs + 1))
        assert record.status == ("completed" if record.epochs == EPOCHS else "pruned")


@pytest.mark.parametrize(("at_once", "trials"), [(1, 6), (2, 2)])
def test_no_more_trials_train_at_once_than_allowed(tmp_path: Path, at_once: int, trials: int) -> None:
    ledger = search(tmp_path, Busy, scheduler="hyperband", trials=trials, at_once=at_once)
    assert max(int(ledger.storage.read(key)) for key in ledger.storage.list("busy")) == at_once
    assert all(record.ended for record in ledger.trials.values())


def test_the_searcher_learns_while_hyperband_waits(tmp_path: Path) -> None:
    ledger = search(tmp_path, scheduler="hyperband", searcher="optuna", trials=5)
    assert sorted(ledger.trials) == list(range(5))
    assert {record.status for record in ledger.trials.values()} == {"completed", "pruned"}


def test_hyperband_goes_on_without_a_trial_that_dies(tmp_path: Path) -> None:
    ledger = search(tmp_path, DyingWhileOthersWait, scheduler="hyperband", trials=6)
    assert ledger.trials[0].status in ("failed", "pruned")
    assert all(record.ended for record in ledger.trials.values())
    assert "completed" in {record.status for record in ledger.trials.values()}


@pytest.mark.parametrize("scheduler", ["hyperband", "pbt"])
def test_a_search_that_pauses_trials_goes_on_after_it_was_cut_off(tmp_path: Path, scheduler: str) -> None:
    whole = search(tmp_path / "whole", scheduler=scheduler, trials=6)
    cut = search(tmp_path / "cut", Slow, scheduler=scheduler, trials=6, time_budget_s=CUT_AFTER_S)
    begun = {n: record.epochs for n, record in cut.trials.items() if not record.ended}
    assert begun
    again = search(tmp_path / "cut", scheduler=scheduler, trials=6)
    for number, record in whole.trials.items():
        other = again.trials[number]
        assert (other.status, other.values, other.clones) == (record.status, record.values, record.clones)
        assert [r["epoch"] for r in other.history] == [r["epoch"] for r in record.history]


def test_a_population_copies_its_best_and_changes_their_settings(tmp_path: Path) -> None:
    ledger = search(tmp_path, scheduler="pbt", trials=4)
    assert {record.status for record in ledger.trials.values()} == {"completed"}
    rounds = json.loads(ledger.storage.read("rounds.json"))["rounds"]
    assert [made["epoch"] for made in rounds] == list(range(1, EPOCHS))
    values = {n: record.first_values for n, record in ledger.trials.items()}
    for made in rounds:
        ranked = sorted(values, key=lambda n: -values[n]["distillation.temperature"])
        assert {int(n): clone["of"] for n, clone in made["clones"].items()} == {ranked[-1]: ranked[0]}
        for number, clone in made["clones"].items():
            assert clone["of_values"] == values[clone["of"]]
            assert clone["before"] == values[int(number)]
            assert ledger.storage.exists(
                f"cloned/trial-{int(number):04d}/trial-{clone['of']:04d}-{made['epoch']}"
            )
        values |= {int(n): clone["values"] for n, clone in made["clones"].items()}
    assert {n: record.values for n, record in ledger.trials.items()} == values
    assert len(ledger.storage.list("cloned")) == len(rounds)
    for record in ledger.trials.values():
        assert [r["epoch"] for r in record.history] == list(range(1, EPOCHS + 1))
        assert len(ledger.storage.list(f"seen/{record.name}")) == EPOCHS


def test_memory_that_is_short_is_waited_for_as_often_as_asked(tmp_path: Path) -> None:
    ledger = search(tmp_path, Starving, trials=4, scheduler="none")
    assert [ledger.trials[n].status for n in range(4)] == ["completed", "completed", "failed", "completed"]
    assert ledger.trials[2].error == "MemoryError: no 3 GiB left"
    assert [r["epoch"] for r in ledger.trials[1].history] == list(range(1, EPOCHS + 1))


def test_processes_are_reused(tmp_path: Path) -> None:
    ledger = search(tmp_path, scheduler="none", trials=8)
    processes = {ledger.storage.read(key) for key in ledger.storage.list("seen")}
    assert len(processes) <= 3


def test_a_trial_that_diverges_fails_with_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    ledger = search(tmp_path, Diverging, trials=4, scheduler="none")
    assert ledger.trials[1].status == "failed"
    assert ledger.trials[1].error == "TrainingDiverged: student: the loss became nan at step 7"
    assert [ledger.trials[n].status for n in (0, 2, 3)] == ["completed"] * 3


def test_a_trial_whose_process_is_killed_goes_on_in_another(tmp_path: Path) -> None:
    ledger = search(tmp_path, Dying, trials=3, scheduler="none")
    assert {record.status for record in ledger.trials.values()} == {"completed"}
    assert [r["epoch"] for r in ledger.trials[1].history] == list(range(1, EPOCHS + 1))


def test_a_trial_that_dies_again_and_again_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    ledger = search(tmp_path, Hopeless, trials=3, scheduler="none")
    assert ledger.trials[1].status == "failed"
    assert "died" in str(ledger.trials[1].error)
    assert [ledger.trials[n].status for n in (0, 2)] == ["completed"] * 2


def test_trials_that_had_ended_are_not_run_again(tmp_path: Path) -> None:
    first = search(tmp_path, scheduler="asha", trials=6)
    seen = first.storage.list("seen")
    again = search(tmp_path, scheduler="asha", trials=6)
    assert again.trials == first.trials
    assert again.storage.list("seen") == seen


@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
def test_a_driver_that_lost_its_run_stops_at_once(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[Path, bytes] = {}

    def lost(*_: object, **__: object) -> None:
        if len(list(tmp_path.glob("seen/*/*"))) > 6:
            kept.update({path: path.read_bytes() for path in tmp_path.glob("trials/*/trial.json")})
            raise RunFailed("process 7 has taken this run over")

    monkeypatch.setattr(Recorder, "on_step_begin", lost)
    with pytest.raises(RunFailed, match="process 7"):
        search(tmp_path, scheduler=scheduler, trials=6)
    assert kept == {path: path.read_bytes() for path in tmp_path.glob("trials/*/trial.json")}


def test_the_time_budget_ends_a_search(tmp_path: Path) -> None:
    ledger = search(tmp_path, Slow, trials=50, scheduler="none", time_budget_s=3)
    assert len(ledger.trials) < 50
    assert any(record.status == "out_of_time" for record in ledger.trials.values())


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

"""A trial's own process: what it trains, what it reports again, and what fails it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_runs import networks_in

from ekd_train.settings import TrialStep
from orchestrator.experiment.schema import load_experiment
from orchestrator.storage import open_storage
from orchestrator.tuning.trial import Trial
from orchestrator.tuning.trial_executor import TrialFailed, TrialSetup
from orchestrator.tuning.trial_store import TrialStore


class Executor:
    """Three epochs; the second one raises what it is given."""

    def __init__(self, setup: TrialSetup) -> None:
        self.steps: list[TrialStep] = []
        self.error: Exception | None = None

    def step(self, step: TrialStep) -> dict[str, float]:
        self.steps.append(step)
        if step.after == 1 and self.error is not None:
            raise self.error
        return {"epoch": step.after + 1.0, "score": 0.1 * step.after, "finished": float(step.after == 2)}

    def close(self) -> None:
        """Nothing is held."""


def begun(folder: Path, number: int = 0, seeds: int = 1) -> tuple[Trial, Executor]:
    trial = Trial.__new__(Trial)
    experiment = load_experiment("digits").resolved()
    setup = TrialSetup(networks_in(open_storage(str(folder))), experiment, seeds, None, Executor)
    trial.setup({"number": number, "values": {"distillation.temperature": 2.0}}, trial_setup=setup)
    return trial, trial.executor  # type: ignore[return-value]


def test_it_trains_one_epoch_a_step_of_every_seed(tmp_path: Path) -> None:
    trial, executor = begun(tmp_path, seeds=2)
    reported = [trial.step() for _ in range(3)]
    assert [(r["epoch"], r["done"]) for r in reported] == [(1, False), (2, False), (3, True)]
    assert [step.after for step in executor.steps] == [0, 1, 2]
    first, second = executor.steps[0].runs
    assert first.distillation is not None
    assert first.distillation.temperature == 2.0
    assert second == first.model_copy(update={"seed": first.seed + 1})


def test_its_first_seed_is_the_student_that_would_be_trained_in_full(tmp_path: Path) -> None:
    trial, executor = begun(tmp_path)
    trial.step()
    whole = load_experiment("digits", ["distillation.temperature=2.0"])
    assert executor.steps[0].runs == (whole.student_run(),)


def test_one_that_had_ended_reports_what_it_had_and_trains_nothing(tmp_path: Path) -> None:
    trials = TrialStore(open_storage(str(tmp_path)))
    record = trials.add(0, {}, 1.0)
    trials.end(record, "pruned", history=tuple({"epoch": epoch, "score": 0.5} for epoch in (1.0, 2.0)))
    trials.end(trials.add(1, {}, 1.0), "failed", error="TrainingDiverged: nan")
    trial, executor = begun(tmp_path)
    assert [(r["epoch"], r["done"]) for r in (trial.step(), trial.step())] == [(1, False), (2, True)]
    assert trial.reset_config({"number": 1, "values": {}})
    assert trial.step() == {"done": True, "failure": "TrainingDiverged: nan"}
    assert executor.steps == []


def test_the_next_trial_in_the_same_process_begins_at_its_beginning(tmp_path: Path) -> None:
    trial, executor = begun(tmp_path)
    trial.step()
    trial.reset_config({"number": 7, "values": {"distillation.temperature": 3.0}})
    trial.step()
    assert [(step.name, step.after) for step in executor.steps] == [("trial-0000", 0), ("trial-0007", 0)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("wrong  shape"), "ValueError: wrong shape"), (TrialFailed("no workers"), "no workers")],
)
def test_what_would_be_raised_again_fails_the_trial_alone(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    trial, executor = begun(tmp_path)
    executor.error = error
    trial.step()
    assert trial.step() == {"done": True, "failure": reason}


@pytest.mark.parametrize("error", [MemoryError("no 3 GiB left"), OSError("gone")])
def test_what_another_try_may_mend_is_left_to_tune(tmp_path: Path, error: Exception) -> None:
    trial, executor = begun(tmp_path)
    executor.error = error
    trial.step()
    with pytest.raises(type(error)):
        trial.step()


PLAIN: Any = ("perturbation.kind=none", "data.augmentation={crop_padding: 0, flip: false}")


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        (PLAIN, True),
        (PLAIN[1:], False),  # perturbed
        (PLAIN[:1], False),  # augmented
        ((*PLAIN, "student.method=ekd", "distillation.ekd.feature=0.1"), False),
    ],
)
def test_trials_share_their_teachers_predictions_where_images_stay_as_they_are(
    changes: tuple[str, ...], shared: bool
) -> None:
    run = load_experiment("digits", changes).student_run()
    assert run.sharing_predictions().training.speed.cache_teachers is shared
    assert load_experiment("digits", changes).control_run().sharing_predictions().teachers == ()

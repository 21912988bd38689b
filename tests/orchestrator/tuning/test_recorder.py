"""What the driver writes down of trials, as Tune tells it: ledger and MLflow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.pipeline.progress import View
from orchestrator.storage import open_storage
from orchestrator.tracking import Tracker
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.ledger import Ledger
from orchestrator.tuning.proposals import RandomProposer
from orchestrator.tuning.recorder import Recorder
from orchestrator.tuning.space import Space

SPACE = Space(
    name="test",
    description="a test",
    domains={"perturbation.temperature": Choice(choice=(None, 2.0), reason="a test")},
)


@pytest.fixture
def recorder(tmp_path: Path, tracker: Tracker) -> Recorder:
    view = View.open("test", [], "nowhere")
    view.console.quiet = True
    ledger = Ledger(open_storage(str(tmp_path / "runs")))
    return Recorder(ledger, RandomProposer(SPACE, 0), tracker, view, 2)


def told(number: int, **changes: Any) -> Any:
    """A trial as Tune's callbacks see it."""
    metadata = SimpleNamespace(error_filename="error.txt", pickled_error_filename="error.pkl")
    fields = {"last_result": {}, "error_file": None, "run_metadata": metadata} | changes
    return SimpleNamespace(config={"number": number}, **fields)


def mlflow_run(recorder: Recorder, number: int) -> Any:
    assert recorder.tracker is not None
    recorder.tracker.flush()
    return recorder.tracker.client.get_run(recorder.tracker.resolve(recorder.runs[number]))


def test_a_trial_that_fails_is_failed_in_mlflow_with_its_reason(recorder: Recorder, tmp_path: Path) -> None:
    for number in range(2):
        recorder.ledger.propose(number, {"perturbation.temperature": 2.0}, 1.0)
        recorder.on_trial_start(0, [], told(number))
    diverged = "TrainingDiverged: student: the loss became nan at step 7"
    recorder.on_trial_complete(1, [], told(0, last_result={"failure": diverged}))
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at x)\nOSError: gone\n")
    recorder.on_trial_error(2, [], told(1, error_file=str(tmp_path / "error.txt")))
    for number, reason in enumerate((diverged, "OSError: gone")):
        run = mlflow_run(recorder, number)
        assert run.info.status == "FAILED"
        assert run.data.tags["ekd.trial.status"] == "failed"
        assert run.data.tags["ekd.trial.error"] == reason == recorder.ledger.trials[number].error


def test_a_population_may_change_a_setting_to_no_number(recorder: Recorder) -> None:
    record = recorder.ledger.propose(0, {"perturbation.temperature": None, "distillation.alpha": 0.5}, 1.0)
    record.clones.append({"epoch": 3, "of": 1, "before": {"perturbation.temperature": 2.0}})
    recorder.cloned(record)
    metrics = mlflow_run(recorder, 0).data.metrics
    assert {name: value for name, value in metrics.items() if name.startswith("values/")} == {
        "values/distillation.alpha": 0.5
    }


@pytest.mark.parametrize("heard", ["on_trial_error", "on_trial_recover"])
def test_tune_is_left_no_pickled_error_to_load_from_the_storage(recorder: Recorder, heard: str) -> None:
    recorder.ledger.propose(0, {"perturbation.temperature": 2.0}, 1.0)
    trial = told(0)
    getattr(recorder, heard)(0, [], trial)
    assert trial.run_metadata.pickled_error_filename is None
    assert trial.run_metadata.error_filename == "error.txt"

"""What MLflow is to show of a run is in the run's storage, and can be written from there at any time."""

import json
import shutil
from collections import Counter

import pytest
from mlflow import MlflowClient

from ekd_train.persistence.checkpoint import save_record
from orchestrator.cli.main import main
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.manifest import Manifest
from orchestrator.pipeline.projection import (
    decided_params,
    network_params,
    project,
    shown_params,
    trial_state,
)
from orchestrator.storage.local import LocalStorage
from orchestrator.tracking import PARENT
from orchestrator.tuning.pool import trial_experiment
from orchestrator.tuning.trial_store import TrialRecord, TrialStore


def epochs(*numbers):
    return [{"epoch": float(number), "train/loss": 1.0 / number} for number in numbers]


def values(*numbers):
    return {("train/loss", number): 1.0 / number for number in numbers}


@pytest.fixture
def experiment():
    return load_experiment("digits")


@pytest.fixture
def storage(tmp_path, experiment):
    storage = LocalStorage(tmp_path)
    Manifest.open(storage, experiment, "mine", "f" * 64, "code")
    return storage


def save_checkpoint(storage, name, epoch):
    state = {"epoch": epoch, "history": epochs(*range(1, epoch + 1))}
    record = {"epoch": epoch, "identity": "i", "sha256": "s", "state": state}
    save_record(storage, f"checkpoints/{name}/epoch-{epoch:05d}.json", record)


def test_of_a_run_that_has_made_nothing_there_is_an_empty_parent(storage, experiment):
    (parent,) = project(storage, experiment).values()
    assert (parent.params, parent.metrics, parent.artifacts, parent.status) == ({}, {}, {}, None)


def test_a_finished_training_run_has_its_whole_history(storage, experiment):
    save_record(storage, "networks/teacher-0.json", {"identity": "i", "history": epochs(1, 2, 3)})
    save_checkpoint(storage, "teacher-0", 2)
    state = project(storage, experiment)["teacher-0"]
    assert (state.metrics, state.status) == (values(1, 2, 3), "FINISHED")


def test_a_network_that_another_run_trained_says_which(storage, experiment):
    for name, by in (("teacher-0", "another"), ("teacher-1", "mine")):
        record = {"identity": "i", "trained_by": by, "history": epochs(1)}
        save_record(storage, f"networks/{name}.json", record)
    states = project(storage, experiment)
    assert states["teacher-0"].tags == {"ekd.reused_from": "another"}
    assert states["teacher-1"].tags == {}


def test_a_training_run_took_place_when_it_was_trained(storage, experiment):
    record = {"identity": "i", "history": epochs(1), "seconds": 30.0, "ended": 1_000_000.0}
    save_record(storage, "networks/control.json", record)
    control = project(storage, experiment)["control"]
    assert (control.began, control.ended) == (999_970.0, 1_000_000.0)


def test_before_a_search_has_ended_only_what_it_leaves_alone_is_logged(experiment):
    searched = ("distillation.temperature", "student.members")
    decided = decided_params(experiment, searched)
    assert not {"distillation.temperature", "student.members", "teachers.0.count"} & decided.keys()
    assert decided["student.training.learning_rate"] == "0.03"
    assert decided == {key: shown_params(experiment)[key] for key in decided}
    assert decided_params(experiment, ()) == shown_params(experiment)


def test_an_unfinished_one_has_what_its_newest_whole_checkpoint_has(storage, experiment):
    for epoch in (2, 9, 10):
        save_checkpoint(storage, "student", epoch)
    storage.write("checkpoints/student/epoch-00010.json", b'{"record": {}, "sha256": "cut')
    storage.write("checkpoints/student/best-00012.safetensors", b"weights")
    state = project(storage, experiment)["student"]
    assert (state.metrics, state.status) == (values(*range(1, 10)), None)


SPACE = {
    "name": "student",
    "description": "a test",
    "domains": {"distillation.temperature": {"uniform": [1, 4], "reason": "a test"}},
}


def test_trials_are_shown_as_they_ended_with_what_the_search_found(storage, experiment):
    trials = TrialStore(storage)
    for number, status in enumerate(("completed", "failed")):
        record = trials.add(number, {"distillation.temperature": 2.5}, 528.0, planned_epochs=4)
        history = tuple(each | {"score": 0.5, "finished": 0.0} for each in epochs(1, 2))
        error = "boom" if status == "failed" else None
        trials.end(record, status, history=history, error=error, seconds=7.0)
    trials.add(2, {"distillation.temperature": 4.0}, 1.0)
    best = {"trial": "trial-0000", "values": {"distillation.temperature": 2.5}, "score": 0.5}
    Manifest.open(storage, experiment, "mine", "f" * 64, "code").finish("search", 1.0, {"best": best})
    storage.write("search.json", json.dumps({"request": {"space": SPACE}, "seconds": 1.0}).encode())
    runs = project(storage, experiment)
    assert set(runs) == {PARENT, "trial-0000", "trial-0001"}
    assert [runs[name].status for name in ("trial-0000", "trial-0001")] == ["FINISHED", "FAILED"]
    assert runs["trial-0000"].params == {"distillation.temperature": "2.5"}
    ended = {("seconds", 2): 7.0, ("cost", 2): 264.0, ("full_cost", 2): 528.0}
    assert runs["trial-0000"].metrics == values(1, 2) | {("score", 1): 0.5, ("score", 2): 0.5} | ended
    assert runs["trial-0001"].tags == {
        "ekd.trial": "1",
        "ekd.trial.status": "failed",
        "ekd.trial.epochs": "2",
        "ekd.trial.error": "boom",
    }
    tags = {key: text for key, text in runs[PARENT].tags.items() if key.startswith("ekd.")}
    assert tags == {"ekd.search.space": "student", "ekd.search.best": "trial-0000"}
    assert runs[PARENT].metrics == {("search/best_score", 0): 0.5, ("search/trials", 0): 3.0}
    assert len(json.loads(runs[PARENT].artifacts["search/trials.json"])["trials"]) == 3


def test_a_teacher_that_the_best_trial_does_without_is_recorded_as_the_others_are(storage, experiment):
    best = {"trial": "trial-0000", "values": {"student.members": 2}, "score": 0.5}
    Manifest.open(storage, experiment, "mine", "f" * 64, "code").finish("search", 1.0, {"best": best})
    for number in range(4):
        save_record(storage, f"networks/teacher-{number}.json", {"identity": "i", "history": epochs(1, 2)})
    runs = project(storage, trial_experiment(experiment, best["values"]))
    assert runs["teacher-1"].params["role"] == "label"
    assert runs["teacher-3"].params == runs["teacher-1"].params | {"name": "teacher-3"}
    assert runs["teacher-3"].metrics == values(1, 2)


def test_the_runs_own_params_say_what_each_is(experiment):
    teachers = [network_params(run) for run in experiment.teacher_runs()]
    assert [params["name"] for params in teachers] == [f"teacher-{number}" for number in range(4)]
    params = network_params(experiment.student_run())
    shown = {
        "student.method": "latent_be",
        "student.members": "4",
        "distillation.temperature": "4",
        "distillation.alpha": "1",
        "perturbation.kind": "tdiv_sdiv",
        "perturbation.strength": "1",
    }
    assert {key: params.get(key) for key in shown} == shown
    assert "{}" not in params.values()
    assert not {key for key in network_params(experiment.control_run()) if key.startswith("student.")}


def test_a_trial_whose_network_was_there_has_cost_nothing_and_says_whose_it_is():
    taken = {"reused_from": ("digits-1",), "history": [{"epoch": 4.0}], "status": "completed"}
    state = trial_state(TrialRecord(number=0, values={}, full_cost=528.0, planned_epochs=4, **taken))
    assert state.tags["ekd.reused_from"] == "digits-1"
    assert (state.metrics["cost", 4], state.metrics["full_cost", 4]) == (0.0, 528.0)


def test_a_trial_that_begins_has_its_settings():
    state = trial_state(TrialRecord(number=3, values={"student.members": 4}))
    assert (state.params, state.tags, state.status) == ({"student.members": "4"}, {"ekd.trial": "3"}, None)


def shown(folder):
    """All that MLflow has of the run, but the ids and times of its own, and the command that was called."""
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert set(Counter(run.info.run_name for run in runs).values()) == {1}
    versions = client.search_model_versions("name LIKE 'ekd-%'")
    return {
        run.info.run_name: {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {key: text for key, text in run.data.tags.items() if not key.startswith("mlflow.")},
            "a child": "mlflow.parentRunId" in run.data.tags,
            "metrics": {
                name: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, name))
                for name in run.data.metrics
            },
            "artifacts": {artifact.path for artifact in client.list_artifacts(run.info.run_id)},
            "data": {(i.tags[0].value, i.dataset.digest) for i in run.inputs.dataset_inputs},
            "models": len(run.outputs.model_outputs) if run.outputs else 0,
        }
        for run in runs
    } | {"versions": [(v.name, v.version, weights_of(client, v)) for v in versions]}


def weights_of(client, version):
    return client.get_logged_model(version.source.removeprefix("models:/")).tags["ekd.weights_sha256"]


@pytest.mark.slow
def test_after_mlflow_was_lost_for_good_it_shows_what_it_had_and_nothing_twice(
    finished_smoke_run, tmp_path, monkeypatch, capsys
):
    written_live = shown(finished_smoke_run)
    assert written_live["student"]["metrics"]["train/loss"]
    folder = tmp_path / "copy"
    shutil.copytree(finished_smoke_run, folder)
    (folder / "runs" / "mlflow.db").unlink()
    shutil.rmtree(folder / "runs" / "mlartifacts")
    monkeypatch.chdir(folder)
    for _ in range(2):
        assert main(["register", "smoke", "--storage", "runs"]) == 0
        assert capsys.readouterr().out.rstrip().endswith(f"models:/{written_live['versions'][0][0]}/1")
        assert shown(folder) == written_live
    manifest = json.loads((folder / "runs" / "smoke" / "manifest.json").read_text())
    assert manifest["status"] == "done"

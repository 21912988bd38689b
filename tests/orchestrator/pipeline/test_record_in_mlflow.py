"""What MLflow says of finished runs, one with a search, is what was done: read back from MLflow alone."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from orchestrator.cli.main import main
from orchestrator.experiment.schema import build_experiment
from orchestrator.tracking.connection import patient
from orchestrator.tracking.run_state import flattened
from orchestrator.tuning.pool import trial_experiment

GOLDEN = Path(__file__).parents[2] / "golden"

pytestmark = pytest.mark.slow

RUNS = ("finished", "searched")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Both registered, the second after the first."""
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in RUNS:
            shutil.copytree(GOLDEN / name, folder / "runs" / name)
            assert main(["register", name, "--storage", "runs"]) == 0
    return folder


@pytest.fixture
def client(folder) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")


@pytest.fixture
def versions(client):
    """By the `ekd run` that each is of."""
    found = client.search_model_versions("name = 'ekd-golden'")
    return {version.tags["ekd.run_id"]: version for version in found}


def experiment_of(folder, name):
    """That of the network: the best trial's, where there was a search; from what the run stored."""
    pool = build_experiment(json.loads((folder / "runs" / name / "experiment.json").read_text()))
    manifest = json.loads((folder / "runs" / name / "manifest.json").read_text())
    searched = manifest["stages"].get("search")
    return trial_experiment(pool, searched["outputs"]["best"]["values"]) if searched else pool


def children(client, version):
    runs = client.search_runs([client.get_run(version.run_id).info.experiment_id])
    return {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == version.run_id}


def test_every_param_of_every_registered_version_is_that_of_its_network(client, versions, folder):
    assert versions.keys() == set(RUNS)
    for name, version in versions.items():
        expected = flattened(experiment_of(folder, name).resolved())
        params = client.get_run(version.run_id).data.params
        assert len(params) > 10
        assert params == {key: expected[key] for key in params}
        model = client.get_logged_model(version.source.removeprefix("models:/"))
        assert model.params == params
        with patient(f"sqlite:///{folder}/runs/mlflow.db"):
            settings = mlflow.artifacts.load_dict(
                f"{client.get_run(version.run_id).info.artifact_uri}/experiment.json"
            )
        assert flattened(settings) == expected


def test_comparing_the_run_with_the_search_shows_what_was_searched(client, versions):
    plain, searched = (client.get_run(versions[name].run_id).data for name in RUNS)
    differing = {key for key in plain.params if plain.params[key] != searched.params.get(key)}
    assert differing == {"distillation.temperature", "student.training.epochs"}
    assert searched.params["distillation.temperature"] == "2.0"
    assert not [tag for tag in searched.tags if "changed_param" in tag]


def test_a_run_shows_ten_numbers_at_most_and_its_networks_theirs(client, versions, folder):
    for name, version in versions.items():
        measured = json.loads((folder / "runs" / name / "summary.json").read_text())["predictors"]
        run = client.get_run(version.run_id)
        shown = {key: value for key, value in run.data.metrics.items() if "/" not in key}
        assert 6 <= len(shown) <= 10
        test, control = measured["averaged"]["test"], measured["control"]["test"]
        assert {key: shown[key] for key in ("accuracy", "nll", "cnll")} == pytest.approx(
            {key: test[key] for key in ("accuracy", "nll", "cnll")}
        )
        assert shown["gain_over_control"] == pytest.approx(test["accuracy"] - control["accuracy"])
        assert shown["gain_over_control_low"] <= shown["gain_over_control"] <= shown["gain_over_control_high"]
        assert shown["share_of_ensemble_cost"] == pytest.approx(0.5)
        for child, predictor in (("control", "control"), ("teacher-1", "teacher/1"), ("student", "members")):
            metrics = children(client, version)[child].data.metrics
            assert metrics["accuracy"] == pytest.approx(measured[predictor]["test"]["accuracy"])


def test_children_have_the_params_in_which_they_differ(client, versions):
    networks = children(client, versions["searched"])
    assert networks["control"].data.params["role"] == "label"
    student = networks["student"].data.params
    assert (student["role"], student["distillation.temperature"]) == ("student", "2")
    assert networks["trial-0001"].data.params == {"distillation.temperature": "2.0"}


def test_a_run_is_described_and_says_which_alias_its_student_has(client, versions):
    for name, version in versions.items():
        tags = client.get_run(version.run_id).data.tags
        note = tags["mlflow.note.content"]
        first, why = note.partition("\n")[0], version.tags["ekd.promotion"].partition(": ")[2]
        assert "Test accuracy " in first
        doubted = why.startswith(("at chance level", "worse than its own control"))
        assert first.startswith("When it was registered: Not to be used: " if doubted else "Test accuracy ")
        assert f"(#/models/ekd-golden/versions/{version.version})" in note
        has = client.get_registered_model(version.name).aliases
        given = version.tags["ekd.promotion"].partition(":")[0]
        still = str(has[given]) == str(version.version)
        assert tags["ekd.alias"] == (given if still else f"was {given}"), name


def test_the_classes_are_named_in_the_order_of_the_logits(versions, folder):
    digits = [str(number) for number in range(10)]
    for name, version in versions.items():
        with patient(f"sqlite:///{folder}/runs/mlflow.db"):
            info = mlflow.models.get_model_info(f"models:/ekd-golden/{version.version}")
        assert info.metadata["class_names"] == digits
        assert json.loads((folder / "runs" / name / "summary.json").read_text())["class_names"] == digits
        classes = ", ".join(f"`{each}`" for each in digits)
        assert f"logits, of 10 classes in this order: {classes}." in version.description

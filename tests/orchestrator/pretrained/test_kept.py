"""The same command again finds its run, whatever has become of the weights that it began with."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from ekd_train.models import build_model
from ekd_train.models.classifier import Classifier
from orchestrator.cli.checks import check_experiment
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.pipeline.manifest import Manifest
from orchestrator.pipeline.networks import networks_of
from orchestrator.planning.preflight import Checked
from orchestrator.registry.exported_model import ARCHIVE_TAG, archive_sha256
from orchestrator.registry.logged_model import WEIGHTS_TAG
from orchestrator.registry.provenance import weights_sha256

SHAPE = {"name": "resnet", "depth": 8, "stem_channels": 4}
DATA = {"name": "digits", "train_size": 100, "validation_size": 50, "test_size": 60}


def drawn(seed: int, classes: int = 10) -> Classifier:
    torch.manual_seed(seed)
    network = build_model(**SHAPE, num_classes=classes, in_channels=1, image_size=8).eval()
    assert isinstance(network, Classifier)
    return network


def an_experiment(folder: Path, *weights: str, name: str = "mine", **more: object) -> Experiment:
    return build_experiment(
        {
            "name": name,
            "data": DATA,
            "teachers": [{"weights": each, "architecture": SHAPE, **more} for each in weights],
            "student": {"method": "kd", "architecture": SHAPE, "training": {"epochs": 1, "batch_size": 20}},
            "cluster": {"address": "local"},
            "storage": {"uri": str(folder / "runs")},
            "distillation": {"objective": "mean_kd"},
            "perturbation": {"kind": "none"},
        }
    )


def check(experiment: Experiment, run_id: str | None = None) -> Checked:
    return check_experiment(experiment, run_id, smoke=False)


def begin(experiment: Experiment, run_id: str | None = None) -> Checked:
    """The run as it is once its first stage begins."""
    checked = check(experiment, run_id)
    Manifest.open(
        checked.storage, checked.experiment, checked.run_id, checked.description.fingerprint, "code"
    )
    networks = networks_of(checked.storage, checked.run_id, checked.experiment, checked.description)
    networks.keep_pretrained(checked.given.weights)
    return checked


def save(folder: Path, seed: int, name: str = "w.safetensors", classes: int = 10) -> str:
    save_file(drawn(seed, classes).network.state_dict(), folder / name)
    return str(folder / name)


def assert_same_weights(one: Checked, other: Checked) -> None:
    assert one.given.weights.keys() == other.given.weights.keys()
    for sha256, state in one.given.weights.items():
        assert state.keys() == other.given.weights[sha256].keys()
        assert all(torch.equal(tensor, other.given.weights[sha256][key]) for key, tensor in state.items())


@pytest.mark.parametrize("run_id", [None, "of-mine"])
def test_a_begun_run_goes_on_with_the_weights_that_it_keeps_once_their_file_is_gone(run_id, tmp_path, capsys):
    experiment = an_experiment(tmp_path, file := save(tmp_path, 0))
    before = begin(experiment, run_id)
    Path(file).unlink()
    again = check(experiment, run_id)
    assert (again.run_id, again.experiment) == (before.run_id, before.experiment)
    assert_same_weights(before, again)
    assert again.given.lines == before.given.lines
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"ekd: teachers.weights: {file}: there is no such file; what run {before.run_id} ")


def test_another_run_may_use_them_where_it_states_their_hash_and_else_is_refused(tmp_path):
    file = save(tmp_path, 0)
    before = begin(an_experiment(tmp_path, file))
    (sha256,) = before.given.weights
    Path(file).unlink()
    other = check(an_experiment(tmp_path, file, name="other", weights_sha256=sha256))
    assert other.run_id.startswith("other-")
    assert_same_weights(before, other)
    for changes in ({}, {"weights_sha256": "0" * 64}):
        with pytest.raises(ExperimentError, match="there is no such file"):
            check(an_experiment(tmp_path, file, name="other", **changes))


def test_weights_that_were_changed_where_they_are_kept_are_not_used(tmp_path):
    experiment = an_experiment(tmp_path, file := save(tmp_path, 0))
    begin(experiment)
    Path(file).unlink()
    for kept in (tmp_path / "runs" / "networks").glob("*.safetensors"):
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(ExperimentError, match="there is no such file"):
        check(experiment)


def test_a_head_that_was_made_new_is_made_again(tmp_path):
    training = {"epochs": 1, "batch_size": 20}
    file = save(tmp_path, 0, classes=7)
    experiment = an_experiment(tmp_path, file, fine_tune=True, training=training)
    before = begin(experiment)
    Path(file).unlink()
    assert_same_weights(before, check(experiment))


def test_a_file_that_has_changed_is_another_run_and_the_former_is_named_until_that_has_begun(
    tmp_path, capsys
):
    experiment = an_experiment(tmp_path, file := save(tmp_path, 0))
    before = begin(experiment)
    assert capsys.readouterr().err == ""
    save(tmp_path, 1)
    after = begin(experiment)
    assert after.run_id != before.run_id
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{file} has changed (SHA-256 " in said
    assert f"another run than {before.run_id}" in said
    check(experiment)
    assert capsys.readouterr().err == ""
    with pytest.raises(ExperimentError, match=rf"run {before.run_id} was started with another teachers"):
        check(experiment, before.run_id)


@pytest.mark.slow
def test_an_alias_that_has_moved_is_said_and_the_run_before_is_continued_by_its_id(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment("theirs")
        for version in ("1", "2"):
            logged = mlflow.pytorch.log_model(
                drawn(int(version)).network,
                name="m",
                registered_model_name="champ",
                serialization_format="pt2",
                pip_requirements=["torch"],
                input_example=np.zeros((2, 1, 8, 8), "float32"),
            )
            client.set_logged_model_tags(
                logged.model_id, {WEIGHTS_TAG: weights_sha256(drawn(int(version)).network)}
            )
            fetched = mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}")
            client.set_model_version_tag("champ", version, ARCHIVE_TAG, archive_sha256(Path(fetched)))
    finally:
        mlflow.set_tracking_uri(None)
    client.set_registered_model_alias("champ", "champion", "1")
    experiment = an_experiment(tmp_path, "models:/champ@champion", mean=[0], std=[1])
    before = begin(experiment)
    capsys.readouterr()

    client.set_registered_model_alias("champ", "champion", "2")
    after = check(experiment)
    assert after.run_id != before.run_id
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        "ekd: models:/champ@champion was models:/champ/1 and is models:/champ/2 now: another run than "
        f"{before.run_id}, which began with the former (`--run-id {before.run_id}` continues it)"
    )

    again = check(experiment, before.run_id)
    assert_same_weights(before, again)
    (said,) = capsys.readouterr().err.splitlines()
    assert f"is models:/champ/2 now; run {before.run_id} continues with what it began with" in said

    client.delete_registered_model("champ")
    assert check(experiment, before.run_id).experiment == before.experiment
    assert check(experiment).run_id == before.run_id

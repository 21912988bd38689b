import copy
import json

import pytest
import torch

from orchestrator.experiment import build_experiment
from orchestrator.model_card import model_card


def measured(accuracy, nll, macs=1000):
    test = {"accuracy": accuracy, "nll": nll, "ece": 0.02, "brier": 0.1, "cnll": 0.2, "cece": 0.01}
    return {"params": 12345, "macs": macs, "test": test, "validation": dict(test)}


SUMMARY = {
    "run_id": "digits-0123456789",
    "experiment": "digits",
    "predictors": {
        "averaged": measured(0.9603, 0.154),
        "members": measured(0.9610, 0.150, 4000),
        "ensemble": measured(0.9790, 0.164, 4000),
        "teacher/1": measured(0.94, 0.23),
        "teacher/0": measured(0.93, 0.24),
        "control": measured(0.9398, 0.234),
    },
    "stages": {},
}
LINEAGE = {"ekd.code_version": "abc", "ekd.data_fingerprint": "f00d"}


@pytest.fixture
def experiment():
    return build_experiment({"name": "digits"}).resolved()


@pytest.fixture
def card(experiment):
    return model_card(SUMMARY, experiment, LINEAGE)


def rows(card):
    return [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]


def test_the_verdict_compares_with_control_and_ensemble(card):
    assert (
        "Test accuracy 96.03 %, NLL 0.1540: +2.05 points and NLL -0.0800 against the control, "
        "-1.87 points and NLL -0.0100 against the ensemble, at 25 % of the ensemble's cost."
    ) in card


def test_a_student_that_lost_is_said_to_have_lost(experiment):
    summary = copy.deepcopy(SUMMARY)
    summary["predictors"]["control"]["test"]["accuracy"] = 0.99
    assert "-2.97 points and NLL -0.0800 against the control" in model_card(summary, experiment, LINEAGE)


def test_every_predictor_is_a_row_from_control_to_averaged(card):
    names = [row[0].strip("*") for row in rows(card)[2:]]
    assert names == ["control", "teacher/0", "teacher/1", "ensemble", "members", "averaged"]
    assert len({len(row) for row in rows(card)}) == 1


def test_predictors_without_numbers_leave_their_cells_empty(experiment):
    summary = copy.deepcopy(SUMMARY)
    summary["predictors"] |= {"ensemble": {}, "members": {}, "control": {}}
    card = model_card(summary, experiment, {})
    assert "against" not in card
    assert len({line.count("|") for line in card.splitlines() if line.startswith("|")}) == 1


def test_it_says_how_to_load_and_serve_this_model(card):
    assert 'load_model("models:/ekd-digits@champion")' in card
    assert "mlflow models serve" in card


def test_a_model_name_of_the_experiment_is_the_one_to_load():
    tree = {"name": "digits", "tracking": {"registered_model": "my-model"}}
    experiment = build_experiment(tree)
    card = model_card(SUMMARY, experiment.resolved(), LINEAGE)
    assert f'load_model("models:/{experiment.model_name}@champion")' in card


def test_it_carries_run_data_recipe_and_lineage(card):
    for text in ("digits-0123456789", "`digits`", "`latent_be`", "temperature 4.0", "f00d", "abc"):
        assert text in card


def test_it_fits_into_a_registry_description(card):
    assert len(card) < 5000


def test_its_code_runs_as_python(card):
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_one_teacher_and_plain_distillation_read_well():
    tree = {"name": "one", "teachers": {"count": 1}, "student": {"method": "kd"}}
    experiment = build_experiment(json.loads(json.dumps(tree))).resolved()
    card = model_card(SUMMARY, experiment, LINEAGE)
    assert "distilled from 1 teacher with `kd`. It runs" in card


def test_without_an_averaged_student_there_is_no_card(experiment):
    with pytest.raises(KeyError, match="averaged"):
        model_card({**SUMMARY, "predictors": {}}, experiment, LINEAGE)


def test_its_first_line_is_the_verdict_which_lists_of_versions_show(card):
    assert card.startswith("Test accuracy 96.03 %, NLL 0.1540: ")


def test_it_links_to_the_runs_it_came_from(experiment):
    runs = {"parent": "#/experiments/1/runs/a", "teacher-0": "#/experiments/1/runs/b"}
    card = model_card(SUMMARY, experiment, LINEAGE, runs)
    assert "- runs: [parent](#/experiments/1/runs/a), [teacher-0](#/experiments/1/runs/b)" in card


DATA = {"num_classes": 10, "image_shape": [1, 8, 8], "mean": [0.3], "std": [0.4]}


def test_the_card_of_a_pruned_student_names_the_pruning_and_builds_it(tmp_path, monkeypatch):
    tree = {"name": "p", "student": {"architecture": {"name": "resnet", "depth": 8, "pruned": 0.375}}}
    card = model_card(SUMMARY, build_experiment(tree).resolved(), LINEAGE, data=DATA)
    assert "One `resnet` depth 8 width 1.0 with 37.5 % of its channels pruned for images of `digits`" in card
    assert len(card) < 5000
    code = card.split("## Its weights alone")[1].split("```python\n")[1].split("```")[0]
    build, load = code.rsplit("\n", 2)[0], code.rsplit("\n", 2)[1]
    assert load.startswith("network.network.load_state_dict(torch.load(")
    made: dict = {}
    exec(build, made)
    monkeypatch.chdir(tmp_path)
    torch.save({k: v + 1 for k, v in made["network"].network.state_dict().items()}, "student.pt")
    exec(load, made)
    assert made["network"].network.stem.weight.shape == (10, 1, 3, 3)
    assert made["network"](torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_other_cards_say_nothing_of_pruning(experiment):
    assert "prune" not in model_card(SUMMARY, experiment, LINEAGE, data=DATA)

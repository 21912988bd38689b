import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_runs import a_description

from ekd_train.models import build_model
from orchestrator.experiment.schema import build_experiment
from orchestrator.pipeline.manifest_content import Gain, Predictor
from orchestrator.pipeline.summary import Summary
from orchestrator.registry.model_card import fitted, model_card


def measured(accuracy, nll, macs=1000, temperature=1.0):
    test = {"accuracy": accuracy, "nll": nll, "ece": 0.02, "brier": 0.1, "cnll": 0.2, "cece": 0.01}
    return Predictor(params=12345, macs=macs, temperature=temperature, test=test, validation=test)


SUMMARY = Summary(
    run_id="digits-0123456789",
    experiment="digits",
    predictors={
        "averaged": measured(0.9603, 0.154, temperature=1.0891),
        "members": measured(0.9610, 0.150, 4000),
        "ensemble": measured(0.9790, 0.164, 4000),
        "teacher/1": measured(0.94, 0.23),
        "teacher/0": measured(0.93, 0.24),
        "control": measured(0.9398, 0.234),
    },
    stages={},
    data_fingerprint="f00d",
    result_hash="h",
    code_version="abc",
)


def having(**predictors: Predictor) -> Summary:
    """The summary with other, or further, predictors."""
    return SUMMARY.model_copy(update={"predictors": SUMMARY.predictors | predictors})


LINEAGE = {"ekd.code_version": "abc", "ekd.data_fingerprint": "f00d"}
DATA = a_description(num_classes=10, train=1078, validation=359, test=360)


@pytest.fixture
def experiment():
    return build_experiment({"name": "digits"}).resolved()


@pytest.fixture
def card(experiment):
    return model_card(SUMMARY, experiment, LINEAGE, DATA)


def rows(card):
    return [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]


def test_the_verdict_compares_with_control_and_ensemble(card):
    assert (
        "Test accuracy 96.03 %, NLL 0.1540: +2.05 points and NLL -0.0800 against the control, "
        "-1.87 points and NLL -0.0100 against the ensemble, at 25 % of the ensemble's cost."
    ) in card


def test_the_difference_to_control_has_its_interval(experiment):
    gain = Gain(value=0.0205, low=-0.001, high=0.0423)
    card = model_card(SUMMARY.model_copy(update={"to_control": gain}), experiment, LINEAGE, DATA)
    assert "+2.05 points [-0.10, +4.23] and NLL -0.0800 against the control, -1.87 points and" in card
    assert "In brackets the 95 % interval over the test images; 0 is in it, so nothing is shown." in card
    assert "in brackets above: a paired bootstrap over the 360 test images" in card


def test_it_tells_what_versions_are_compared_by(card):
    assert (
        "- versions are compared on the 359 validation images. "
        "This network: validation accuracy 0.9603, NLL 0.1540; "
        "its control: validation accuracy 0.9398, NLL 0.2340"
    ) in card


def test_what_speaks_against_it_comes_first(experiment):
    card = model_card(SUMMARY, experiment, LINEAGE, DATA, doubted="worse than its own control")
    assert card.startswith("Not to be used: worse than its own control. Test accuracy 96.03 %")


def test_it_counts_the_images_whatever_cut_them(card):
    assert "- data: `digits`: 1,078 images for training, 359 for selection and temperature, 360 for" in card
    tree = {"name": "d", "data": {"train_size": 500, "train_fraction": 0.2}}
    cut = model_card(
        SUMMARY, build_experiment(tree).resolved(), LINEAGE, DATA.model_copy(update={"train": 100})
    )
    assert "100 images for training (by `train_size` 500 and `train_fraction` 0.2), 359 for" in cut


def test_a_student_that_lost_is_said_to_have_lost(experiment):
    summary = having(control=measured(0.99, 0.234))
    assert "-2.97 points and NLL -0.0800 against the control" in model_card(
        summary, experiment, LINEAGE, DATA
    )


def test_every_predictor_is_a_row_and_the_teachers_come_last(card):
    names = [row[0].strip("*") for row in rows(card)]
    assert [name for name in names if name not in ("predictor", "---")] == [
        "control",
        "ensemble",
        "members",
        "averaged",
        "teacher/0",
        "teacher/1",
    ]
    assert len({len(row) for row in rows(card)}) == 1


def test_predictors_without_numbers_leave_their_cells_empty(experiment):
    nothing = Predictor(params=1, macs=1)
    summary = having(ensemble=nothing, members=nothing, control=nothing)
    card = model_card(summary, experiment, {}, DATA)
    assert "against" not in card
    assert len({line.count("|") for line in card.splitlines() if line.startswith("|")}) == 1


def test_it_says_how_to_load_and_serve_this_model(card):
    assert 'model = "models:/ekd-digits@champion"  # or models:/ekd-digits/NUMBER, the version' in card
    assert "mlflow models serve" in card


def test_the_temperature_that_calibrates_is_that_of_the_version_that_is_loaded(card):
    """The champion may be another version than the one whose card this is."""
    assert "probs = (network(images) / temperature).softmax(-1)  # calibrated" in card
    assert 'about["temperature"]  # 1.089: of this card' in card
    assert "- distillation: at temperature 4.0 (of" in card


def test_a_model_name_of_the_experiment_is_the_one_to_load():
    tree = {"name": "digits", "tracking": {"registered_model": "my-model"}}
    experiment = build_experiment(tree)
    card = model_card(SUMMARY, experiment.resolved(), LINEAGE, DATA)
    assert f'model = "models:/{experiment.model_name}@champion"' in card


def test_it_carries_run_data_recipe_and_lineage(card):
    for text in ("digits-0123456789", "`digits`", "`latent_be`", "temperature 4.0", "f00d", "abc"):
        assert text in card


def test_it_fits_into_a_registry_description(card):
    assert len(card) < 5000


@pytest.mark.parametrize("count", [16, 64])
def test_of_many_teachers_what_matters_is_kept_and_it_is_said_where_the_rest_is(count):
    experiment = build_experiment(
        {"name": "digits", "teachers": {"count": count}, "student": {"members": count}}
    ).resolved()
    teachers = {f"teacher/{number}": measured(0.93, 0.24) for number in range(count)}
    summary = having(**teachers)
    runs = {f"teacher-{number}": f"#/experiments/1/runs/{number:032x}" for number in range(count)}
    lineage = LINEAGE | {"ekd.teacher_run_ids": ",".join("0" * 32 for _ in range(count))}
    card = model_card(summary, experiment, lineage, DATA, runs={"parent": "#/x", **runs})
    assert f"teacher/{count - 1} |" in card
    kept = fitted(card, 5000)
    assert len(kept) <= 5000
    for text in ("Test accuracy 96.03 %", "| **averaged**", "## Limitations", "f00d", "digits-0123456789"):
        assert text in kept, text
    assert "seed 0" in kept
    assert "the report, `report.html`" in kept
    assert kept.endswith("the whole card is the artifact `model_card.md` of the parent run.\n")
    assert card.startswith(kept[: kept.index("\n\n… cut")])
    assert fitted(card, len(card)) == card


def test_a_card_is_not_cut_inside_an_example(card):
    within = card.index("network = mlflow")
    kept = fitted(card, within + 110)
    assert kept.count("```") % 2 == 0
    assert "import mlflow" not in kept


def test_its_code_runs_as_python(card):
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_one_teacher_and_plain_distillation_read_well():
    tree = {"name": "one", "teachers": {"count": 1}, "student": {"method": "kd"}}
    experiment = build_experiment(json.loads(json.dumps(tree))).resolved()
    card = model_card(SUMMARY, experiment, LINEAGE, DATA)
    assert "distilled from 1 teacher with `kd`. It runs" in card


def test_without_an_averaged_student_there_is_no_card(experiment):
    with pytest.raises(KeyError, match="averaged"):
        model_card(SUMMARY.model_copy(update={"predictors": {}}), experiment, LINEAGE, DATA)


def test_its_first_line_is_the_verdict_which_lists_of_versions_show(card):
    assert card.startswith("Test accuracy 96.03 %, NLL 0.1540: ")


def test_it_links_to_the_runs_it_came_from(experiment):
    runs = {"parent": "#/experiments/1/runs/a", "teacher-0": "#/experiments/1/runs/b"}
    card = model_card(SUMMARY, experiment, LINEAGE, DATA, runs=runs)
    assert "- runs: [parent](#/experiments/1/runs/a), [teacher-0](#/experiments/1/runs/b)" in card


def test_the_card_of_a_pruned_student_names_the_pruning_and_builds_it(tmp_path, monkeypatch):
    tree = {"name": "p", "student": {"architecture": {"name": "resnet", "depth": 8, "pruned": 0.375}}}
    card = model_card(SUMMARY, build_experiment(tree).resolved(), LINEAGE, DATA)
    assert "One `resnet` depth 8 width 1.0 with 37.5 % of its channels pruned for images of `digits`" in card
    assert len(card) < 5000
    code = card.split("## Its weights alone")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    described = {
        "name": "resnet",
        "depth": 8,
        "pruned": 0.375,
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 8,
    }
    Path("student.safetensors.json").write_text(json.dumps({"build_model": described}))
    save_file(build_model(**described).network.state_dict(), "student.safetensors")
    made: dict = {}
    exec(code, made)
    assert made["network"].network.stem.weight.shape == (10, 1, 3, 3)
    assert made["network"](torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_other_cards_say_nothing_of_pruning(experiment):
    assert "prune" not in model_card(SUMMARY, experiment, LINEAGE, DATA)

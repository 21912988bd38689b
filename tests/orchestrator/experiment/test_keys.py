"""Every key says what it decides, and in which unit; the JSON schema takes what an experiment takes."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrator.cli.main import main
from orchestrator.experiment.keys import evaluation_keys, experiment_keys, experiment_schema
from orchestrator.experiment.packaged import PACKAGED, packaged_experiments

KEYS = [*experiment_keys(), *evaluation_keys()]
UNITS = (
    r"epochs?|steps?|seconds|minutes|hours|pixels|images|grey levels?|GPUs?|CPU|bytes|MiB|GiB|layers|"
    r"channels?|teachers|members|workers?|networks|runs|times|checkpoints|dimensions|seed|subset|share|"
    r"fraction|multiple|multiplier|weight|factor|coefficient|standard deviation|temperature|divides|size|"
    r"scale|norm|degrees|probability|how severely"
)
"""What a number can be of, in words."""
ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    made = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_a_key_says_what_it_decides_in_a_text_in_triple_quotes_below_it():
    assert [key.name for key in KEYS if len(key.meaning) < 15] == []


def test_a_number_says_in_which_unit_it_is():
    numbers = [key for key in KEYS if key.number]
    silent = [key.name for key in numbers if not re.search(rf"\b({UNITS})\b", key.meaning, re.IGNORECASE)]
    assert silent == []


def test_a_key_has_the_default_that_an_experiment_has():
    found = {key.name: key for key in experiment_keys()}
    assert (found["student.training.epochs"].default, found["student.training.epochs"].takes) == (
        "200",
        "whole number from 1 up",
    )
    assert found["teachers.count"].default == "4"
    assert found["name"].default == ""
    assert found["data.train_fraction"].takes == "number above 0, at most 1"
    assert found["perturbation.kind"].takes.startswith("none | gaussian | ods")


@pytest.mark.parametrize(
    "path", [*(PACKAGED / f"{name}.yaml" for name in packaged_experiments()), *EXAMPLES], ids=lambda p: p.stem
)
def test_the_schema_takes_every_packaged_experiment_and_example(schema, path):
    schema.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "tree",
    [
        {"student": {"membres": 4}},
        {"student": {"training": {"epochs": 0}}},
        {"data": {"train_fraction": 1.5}},
        {"perturbation": {"kind": "odds"}},
        {"code": {}},
    ],
)
def test_the_schema_refuses_what_an_experiment_refuses(schema, tree):
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(tree)


def test_the_schema_takes_one_group_of_teachers_or_a_list_and_code_of_ones_own(schema):
    schema.validate({"teachers": {"count": 3}, "perturbation": {"kind": "mine.noise:uniform"}})
    schema.validate({"teachers": [{"count": 3}, {"weights": "a.safetensors"}]})


def test_keys_are_printed_within_80_columns_by_the_beginning_of_their_names(capsys):
    assert main(["keys", "student.training"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "student.training.learning_rate: 0.1\n    [number above 0]\n" in shown
    assert "teachers" not in re.findall(r"(?m)^\w+", shown)


def test_keys_are_found_by_a_part_of_their_names_else_the_nearest_is_named(capsys):
    assert main(["keys", "temperature"]) == 0
    assert re.findall(r"(?m)^[\w.]+", capsys.readouterr().out) == [
        "distillation.temperature",
        "perturbation.temperature",
    ]
    assert main(["keys", "student.membres"]) == 2
    assert "did you mean student.members?" in capsys.readouterr().err
    assert main(["keys", "--evaluate", "sever"]) == 0
    assert capsys.readouterr().out.startswith("severities: [1, 2, 3, 4, 5]\n")


def test_ekd_schema_prints_json(capsys, schema):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema.schema


@pytest.mark.parametrize(
    "path", [*(PACKAGED / f"{name}.yaml" for name in packaged_experiments()), *EXAMPLES], ids=lambda p: p.stem
)
def test_every_packaged_experiment_and_example_names_the_schema_for_editors(path):
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert named is not None
    assert (path.parent / named[1]).resolve() == PACKAGED / "experiment.schema.json"

"""The example of docs/own_code.md: its identity follows the source, and only the user names what runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ekd_train import own_code
from orchestrator.api import load_experiment as from_python
from orchestrator.cli.checks import requested_search
from orchestrator.cli.main import main
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import build_experiment, load_experiment
from orchestrator.planning.preflight import check
from orchestrator.tuning.pool import trial_experiment

pytestmark = pytest.mark.attack

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLE = "docs/examples/own_code.yaml"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A folder with the example in it, from where it is called."""
    (tmp_path / "docs/examples").mkdir(parents=True)
    for name in ("mine.py", "own_code.yaml"):
        shutil.copyfile(DOCS / "examples" / name, tmp_path / "docs/examples" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_allowed", {})
    # Not the docs/ of this repository beside it, as far as tests are run from there.
    monkeypatch.setattr("sys.path", [path for path in sys.path if not (Path(path) / "docs").exists()])
    return tmp_path


def test_the_hash_of_the_source_is_part_of_the_run_and_of_the_networks(example):
    before = load_experiment(EXAMPLE)
    assert before.code == before.student_run().code == before.teacher_runs()[0].code
    with (example / "docs/examples/mine.py").open("a") as file:
        file.write("# another source\n")
    after = load_experiment(EXAMPLE)
    assert after.default_run_id() != before.default_run_id()
    assert after.teacher_runs()[0].code != before.teacher_runs()[0].code
    assert load_experiment("digits").result_settings().keys().isdisjoint({"code"})


def test_options_are_part_of_what_they_decide_and_of_nothing_else(example):
    before = load_experiment(EXAMPLE)
    after = load_experiment(EXAMPLE, ["distillation.options.power=3", "perturbation.options={levels: 2}"])
    assert after.distillation.options == {"power": 3}
    assert after.default_run_id() != before.default_run_id()
    assert after.teacher_runs() == before.teacher_runs()
    with pytest.raises(ExperimentError, match="distillation: options are of code of your own"):
        load_experiment("digits", ["distillation.options.power=3"])


def test_a_stored_experiment_runs_no_code(example):
    stored = build_experiment(load_experiment(EXAMPLE).resolved() | {"storage": {"uri": str(example)}})
    own_code._allowed.clear()  # as in a process that has only read it
    with pytest.raises(ValueError, match=r"docs\.examples\.mine:stripes: a stored experiment names code"):
        check(stored)


def test_a_dictionary_of_the_users_may_name_code_as_their_file_may(example):
    tree = yaml.safe_load((example / EXAMPLE).read_text()) | {"name": "own_code"}
    assert from_python(tree).code == load_experiment(EXAMPLE).code


def test_a_module_that_is_not_there_is_one_line(example):
    with pytest.raises(
        own_code.OwnCodeError, match=f"mine_too: there is no such module; searched were {example}"
    ):
        load_experiment(EXAMPLE, ["data.name=mine_too:stripes"])
    with pytest.raises(
        ExperimentError, match=r"distillation\.objective: .* or package\.module:name of your own"
    ):
        load_experiment(EXAMPLE, ["distillation.objective=mine"])


def test_a_space_names_code_too_and_every_trial_knows_its_source(example):
    (example / "theirs.py").write_text("from docs.examples.mine import PatchNet, SquaredError\n")
    choices = {
        "student.architecture.name": ["docs.examples.mine:PatchNet", "theirs:PatchNet"],
        "distillation.objective": ["theirs:SquaredError"],
        "distillation.options.power": [2, 3],
    }
    domains = {key: {"choice": values, "reason": "A test."} for key, values in choices.items()}
    (example / "nets.yaml").write_text(json.dumps({"description": "Nets.", "domains": domains}))
    options = {"searcher": "random", "trials": 2, "time_budget": None, "scheduler": "asha"}
    with pytest.raises(
        ExperimentError, match=r"options\.power: .* trial 0 .* --set distillation\.options\.power"
    ):
        requested_search(load_experiment(EXAMPLE), space="nets.yaml", **options)
    experiment = load_experiment(EXAMPLE, ["distillation.options.power=2"])
    _, pool = requested_search(experiment, space="nets.yaml", **options)
    assert pool.code.keys() == {"docs.examples.mine", "theirs"}
    for name in ("docs.examples.mine:PatchNet", "theirs:PatchNet"):
        values = {"student.architecture.name": name, "distillation.objective": "theirs:SquaredError"}
        run = trial_experiment(pool, values | {"distillation.options.power": 3}).student_run()
        assert run.distillation.options == {"power": 3}
        assert run.code.keys() == {"docs.examples.mine", "theirs"}  # of the perturbation, and of these
        assert own_code.load(run.architecture.name).__name__ == "PatchNet"


@pytest.mark.slow
def test_the_example_runs_and_its_student_is_exported(example, capsys):
    command = [sys.executable, "-m", "orchestrator", "run", EXAMPLE, "--smoke", "--run-id", "own"]
    settings = ["cluster.address=local", "storage.uri=runs", "cluster.workers_per_run=2"]
    done = subprocess.run(
        [*command, *(word for setting in settings for word in ("--set", setting))],
        env={name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["models:/ekd-own_code-smoke/1"], done.stderr
    shown = json.loads((example / "runs/own/summary.json").read_text())
    assert {"members", "averaged", "control"} <= shown["predictors"].keys()
    record = json.loads((example / "runs/own/networks/student.json").read_text())["record"]
    assert record["workers"] == 2
    assert len(record["history"]) == 2
    words = ["export", "own", "--storage", "runs", "--output", "student.safetensors"]
    assert main(words) == 2
    assert "docs.examples.mine:PatchNet: a stored experiment names code" in capsys.readouterr().err
    assert main([*words, "--trust-stored"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "student.safetensors"

"""From Python: what the commands do, with what they print as the message of what is raised."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import load_experiment, run, tune
from orchestrator.errors import ExperimentError
from orchestrator.runtime.ray_logging import RunLog, logging_kept

GOLDEN = Path(__file__).parents[1] / "golden"


def test_importing_the_package_imports_none_of_what_the_functions_need():
    code = (
        "import sys, orchestrator; print(sorted({'torch', 'ray', 'mlflow', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(ImportError):
        from orchestrator import no_such_function  # noqa: F401


def test_an_experiment_is_a_packaged_one_a_file_or_a_dictionary():
    tree = {"name": "mine", "student": {"members": 3}, "teachers": {"count": 3}}
    mine = load_experiment(tree, ["distillation.temperature=2"])
    assert (mine.name, mine.student.members, mine.distillation.temperature) == ("mine", 3, 2.0)
    assert "distillation" not in tree
    assert load_experiment("digits", smoke=True).name == "digits-smoke"
    assert load_experiment(GOLDEN / "golden.yaml").name == "golden"


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere.yaml", r"nowhere\.yaml"), ({"name": "x", "studnt": {}}, "studnt.*student")],
)
def test_what_is_wrong_is_the_line_that_the_command_prints(source, said):
    with pytest.raises(ExperimentError, match=said):
        load_experiment(source)


def test_paths_stand_wherever_a_dictionary_has_a_text(tmp_path):
    class Own:
        def __fspath__(self) -> str:
            return "w.safetensors"

    tree = {
        "name": "mine",
        "data": {"name": "image_folder", "root": tmp_path},
        "teachers": ({"weights": Own(), "architecture": {"name": "resnet18"}},),
        "storage": {"uri": tmp_path / "runs"},
        "student": {"method": "kd"},
    }
    experiment = load_experiment(tree)
    assert (experiment.data.root, experiment.storage.uri) == (str(tmp_path), f"{tmp_path}/runs")
    assert experiment.teachers[0].weights == "w.safetensors"


WITHIN_ITSELF: dict[str, object] = {"name": "x"}
WITHIN_ITSELF["student"] = WITHIN_ITSELF


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda e: load_experiment({"name": "x", "seed": {1}}), "seed: of type set is no value"),
        (
            lambda e: load_experiment({"name": "x", "teachers": [{"count": b"2"}]}),
            r"teachers\.0\.count: of type bytes",
        ),
        (lambda e: load_experiment(WITHIN_ITSELF), "nested too deeply, or within itself"),
        (lambda e: load_experiment(3), "^source: of type int, not a packaged experiment's name, a YAML"),
        (
            lambda e: load_experiment("digits", "student.members=3"),
            r"^overrides: 'student\.members=3', not a list of texts; write it as \['student\.members=3'\]$",
        ),
        (lambda e: load_experiment("digits", 3), "^overrides: of type int, not a list of texts"),
        (
            lambda e: load_experiment("digits", ["members"]),
            "^overrides: 'members': write each as 'key=value'",
        ),
        (lambda e: load_experiment("digits", [3]), "^overrides: of type int: write each as 'key=value'"),
        (lambda e: load_experiment("digits", ["seed=1: 2: 3"]), "^seed=1: 2: 3: not valid YAML"),
        (lambda e: run("digits"), "^experiment: 'digits', not Experiment; load_experiment makes one"),
        (lambda e: run({"name": "digits"}), "^experiment: of type dict, not Experiment"),
        (lambda e: run(e, run_id=3), "^run_id: of type int, not a text or None"),
        (lambda e: run(e, run_id="a/b"), "^run_id 'a/b': use letters"),
        (lambda e: tune("digits", "student"), "^experiment: 'digits', not Experiment"),
        (lambda e: tune(e, {"domains": {}}), "^space: of type dict, not a packaged space's name"),
        (lambda e: tune(e, "nowhere"), "^space nowhere: no packaged space"),
        (lambda e: tune(e, Path("nowhere.yaml")), "^space nowhere.yaml: cannot be read"),
        (lambda e: tune(e, "student", trials="nine"), "^trials: .*not 'nine'"),
        (lambda e: tune(e, "student", time_budget=-1), "^time_budget: .*not -1"),
        (lambda e: tune(e, "student", trials=9, run_id=Path("a/b")), "^run_id 'a/b': use letters"),
    ],
)
def test_what_is_no_argument_is_said_in_pythons_words(call, said, tmp_path):
    storage = [f"storage.uri={tmp_path}", "cluster.address=local"]
    with pytest.raises(ExperimentError, match=said) as raised:
        call(load_experiment("digits", storage))
    assert "--" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_read_and_the_callers_logging_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "finished", tmp_path / "runs" / "finished")
    own = logging.FileHandler(tmp_path / "own.log")
    logging.getLogger().addHandler(own)
    try:
        # Without what an earlier test of this process may have left.
        before = [handler for handler in logging.getLogger().handlers if not isinstance(handler, RunLog)]
        experiment = load_experiment(GOLDEN / "golden.yaml", ["cluster.address=local", "storage.uri=runs"])
        summary = run(experiment, run_id="finished")
        assert logging.getLogger().handlers == before
    finally:
        logging.getLogger().removeHandler(own)
        own.close()
    assert summary.run_id == "finished"
    assert 0 <= summary.predictors["averaged"].test["accuracy"] <= 1
    assert summary.registered_model is not None


def test_a_finished_search_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "searched", tmp_path / "runs" / "searched")
    settings = ["cluster.address=local", "storage.uri=runs", "student.training.epochs=2"]
    experiment = load_experiment(GOLDEN / "golden.yaml", settings)
    with logging_kept():
        summary = tune(experiment, str(GOLDEN / "space.yaml"), searcher="grid", run_id="searched")
    assert summary.run_id == "searched"
    assert summary.registered_model is not None
    with pytest.raises(ExperimentError, match="space"):
        tune(experiment, "no_such_space")

"""`ekd evaluate` on a run of small untrained networks, from its storage to its last line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ekd_train.data import describe, load_dataset
from ekd_train.evaluation.evaluate import predict_logits
from ekd_train.evaluation.predictors import load_predictors
from ekd_train.models.build_network import averaged, build_network
from ekd_train.persistence.networks import save_average
from ekd_train.persistence.predictions import PredictionsWriter, load_predictions
from ekd_train.persistence.records import Cost, NetworkRecord, PredictionsRecord
from ekd_train.robustness.settings import RobustnessSettings
from orchestrator.cli.commands.evaluate import (
    SPARE,
    SPARE_SEVERITIES,
    legend,
    results_table,
    severity_table,
)
from orchestrator.cli.main import main
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import build_experiment
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.manifest_content import Predictor
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.stages.evaluate import measure
from orchestrator.robustness import evaluation
from orchestrator.robustness.evaluation import EvaluationFailed, evaluate_run, finished_run, read_settings
from orchestrator.robustness.flat_metrics import flat_metrics
from orchestrator.storage import open_storage
from orchestrator.tracking.run_state import RunState

SMALL = {"name": "wide_resnet", "depth": 10, "stem_channels": 2}
TREE = {
    "name": "small",
    "data": {"name": "digits", "test_size": 60, "validation_size": 60, "train_size": 100},
    "teachers": {"count": 2, "architecture": SMALL},
    "student": {"members": 2, "architecture": SMALL},
}
QUICK = ("corruptions=[contrast, shot_noise]", "severities=[1, 5]", "images=30")


def make_run(storage, **data) -> None:
    """What a run leaves, as far as its evaluation and its report read it; `data` changes its settings."""
    torch.manual_seed(0)
    experiment = build_experiment(TREE | {"data": TREE["data"] | data})
    dataset = load_dataset(experiment.data)
    description = describe(dataset)
    plain = {"epoch": 1.0, "train/loss": 1.0, "averaged/accuracy": 0.1, "averaged/nll": 2.3}
    spread = {"members_diversity/pairwise_kl": 0.1, "members_diversity/agreement": 0.9}
    more = {"members/accuracy": 0.1, "members/nll": 2.3, "averaging_gap": 0.0} | spread
    made = {
        "best_epoch": 1,
        "validation_accuracy": 0.1,
        "train_seconds": 1.0,
        "workers": 1,
        "precision": "float32",
    }
    trained, networks = {}, networks_of(storage, "small-1", experiment, description)
    for run in (*experiment.teacher_runs(), experiment.control_run(), experiment.student_run()):
        network = build_network(run, description)
        history = [plain | more if run.name == "student" else plain]
        record = NetworkRecord(identity=run.name, trained_by="small-1", history=history)
        saved = networks.save(run, network, record)
        trained[run.name] = made | {"weights_sha256": saved.sha256}
    save_average(storage, averaged(network), NetworkRecord(identity="averaged"))
    named = load_predictors(
        networks, experiment.control_run(), experiment.student_run(), torch.device("cpu")
    ).named
    writer = PredictionsWriter(storage)
    for split in ("validation", "test"):
        part = getattr(dataset, split)
        writer.add(f"{split}/labels", torch.from_numpy(part.labels))
        for name, network in named.items():
            writer.add(f"{split}/{name}", predict_logits(network, torch.from_numpy(part.images)))
    cost = {name: Cost(params=1, macs=1) for name in named}
    writer.commit(PredictionsRecord(cost=cost))
    tensors = load_predictions(storage, description, cost)
    outputs = {
        "prepare": {"data": description.model_dump(mode="json")},
        "teachers": {name: trained[name] for name in ("teacher-0", "teacher-1")},
        "control": {"control": trained["control"]},
        "distil": {"student": trained["student"]},
        "average": {"network": "networks/averaged", "weights_sha256": "a" * 64},
        "evaluate": {
            "predictors": {name: made.model_dump() for name, made in measure(tensors, cost).items()}
        },
    }
    manifest = {
        "format": 1,
        "run_id": "small-1",
        "experiment": "small",
        "status": "done",
        "created": 1.0,
        "updated": 1.0,
        "result_hash": experiment.result_hash(),
        "data_fingerprint": description.fingerprint,
        "code_version": "abc",
        "mlflow": {},
        "stages": {name: {"seconds": 1.0, "outputs": what} for name, what in outputs.items()},
    }
    storage.write("manifest.json", json.dumps(manifest).encode())
    storage.write("experiment.json", json.dumps(experiment.resolved()).encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(open_storage(str(folder)).child("small-1"))
    return folder


@pytest.fixture
def runs(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def evaluate(runs):
    said, steps = [], []

    def do(*overrides):
        run = finished_run(open_storage(str(runs)).child("small-1"))
        settings = read_settings([*QUICK, "outside=none", *overrides])
        return evaluate_run(run, settings, said.append, lambda done, total: steps.append((done, total)))

    do.said, do.steps, do.folder = said, steps, runs / "small-1"
    return do


def test_every_predictor_is_measured_and_what_was_found_is_kept(evaluate):
    found = evaluate()
    names = {"control", "teacher/0", "teacher/1", "ensemble", "members", "averaged"}
    assert set(found["corruption"]["predictors"]) == set(found["risk_coverage"]["predictors"]) == names
    assert found["corruption"]["images"] == 30
    assert found["risk_coverage"]["images"] == 60
    assert evaluate.steps[-1] == (120, 120)
    assert json.loads((evaluate.folder / "evaluation.json").read_text()) == found


def test_the_same_settings_are_not_measured_again_and_others_are(evaluate):
    first = evaluate()
    evaluate.steps.clear()
    assert evaluate() == first
    assert evaluate.steps == []
    assert "not done again" in evaluate.said[-1]
    second = evaluate("seed=1")
    assert second["number"] == 2
    assert evaluate.steps


@pytest.mark.parametrize(("load", "threads"), [(0.2, 2), (1.1, 1), (30.0, 1)])
def test_torch_gets_the_cores_that_are_idle(monkeypatch, load, threads):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with evaluation._idle_cores():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_same_settings_give_the_same_numbers(evaluate, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))  # rounding depends on the threads
    first = evaluate()
    (evaluate.folder / "evaluation.json").unlink()
    again = evaluate()
    assert [first[key] for key in ("corruption", "risk_coverage", "identity")] == [
        again[key] for key in ("corruption", "risk_coverage", "identity")
    ]


def test_a_damaged_evaluation_is_measured_again(evaluate):
    (evaluate.folder / "evaluation.json").write_text("{")
    assert evaluate()["number"] == 1


def test_the_run_is_left_as_it_was(evaluate):
    before = {p: p.read_bytes() for p in evaluate.folder.rglob("*") if p.is_file()}
    evaluate()
    after = {p: p.read_bytes() for p in evaluate.folder.rglob("*") if p.is_file()}
    assert after.pop(evaluate.folder / "evaluation.json")
    assert after == before


def other_clothes(settings):
    from ekd_train.data.dataset import Source, Split

    images = np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), dtype=np.uint8)
    split = Split(images, np.arange(40) % 4)
    return Source(split, split, tuple("abcd"), official_order=False)


def test_images_of_another_data_set_are_made_to_fit(evaluate, monkeypatch):
    monkeypatch.setitem(evaluation_loaders(), "fashion_mnist", other_clothes)
    found = evaluate("outside=auto")["out_of_distribution"]
    assert (found["outside"], found["images"]) == ("fashion_mnist", 40)
    assert 0 <= found["predictors"]["members"]["disagreement"]["auroc"] <= 1
    assert "disagreement" not in found["predictors"]["averaged"]


def evaluation_loaders():
    from ekd_train.data import LOADERS

    return LOADERS


def no_files(settings):
    from ekd_train.data import DataError

    raise DataError("fashion_mnist", "is not there", "fetch it")


def test_without_the_other_data_set_the_rest_is_measured_and_it_is_said(evaluate, monkeypatch):
    monkeypatch.setitem(evaluation_loaders(), "fashion_mnist", no_files)
    assert "out_of_distribution" not in evaluate("outside=auto")
    assert "left out" in evaluate.said[0]
    with pytest.raises(ExperimentError, match="outside"):
        evaluate("outside=fashion_mnist")
    monkeypatch.setitem(evaluation_loaders(), "fashion_mnist", other_clothes)
    assert "out_of_distribution" in evaluate("outside=auto")


def test_held_out_classes_are_what_a_run_that_has_some_is_tried_on(tmp_path):
    storage = open_storage(str(tmp_path / "held-out"))
    make_run(storage, held_out_classes=["8", "9"])
    found = [
        evaluate_run(finished_run(storage), read_settings([*QUICK, outside]), print, lambda *_: None)
        for outside in ("outside=auto", "outside=held_out")
    ]
    assert found[0]["out_of_distribution"]["outside"] == "held-out classes"
    assert found[0]["out_of_distribution"]["images"] == 60
    assert found[1]["number"] == 1  # the same, so not measured again


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("outside=held_out", "knows all classes"),
        ("outside=digits", "the run's own data"),
        ("images=61", "asks for 61 of 60 test images"),
        ("image=9", "did you mean images?"),
        ("outside=nope", r"outside: input should be 'digits', .*, 'none' or 'held_out', not 'nope'$"),
        ("outside=cifar10", "outside_root"),
        ("severities=[6]", "severities.0: input should be less than or equal to 5, not 6$"),
        ("severities=[]", "severities: name at least one"),
        ("corruptions=[frost]", "corruptions"),
    ],
)
def test_wrong_settings_are_refused_by_name(evaluate, override, line):
    with pytest.raises(ExperimentError, match="(?s)" + line.replace("?", r"\?")):
        evaluate(override)


def test_other_images_than_the_runs_are_refused(evaluate):
    file = evaluate.folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data_fingerprint": "0" * 64}))
    with pytest.raises(ExperimentError, match="data_root"):
        evaluate()


def test_networks_that_do_not_predict_what_was_stored_are_not_measured(evaluate, monkeypatch):
    monkeypatch.setattr(evaluation, "CHECKED_TO", -1.0)
    with pytest.raises(EvaluationFailed, match="control: its stored weights"):
        evaluate()


def test_a_run_whose_experiment_is_gone_says_so(runs, capsys):
    (runs / "small-1" / "experiment.json").unlink()
    for command in ("evaluate", "report"):
        assert main([command, "small-1", "--storage", str(runs)]) == 2
        assert "experiment.json: is missing" in capsys.readouterr().err


def test_a_run_that_is_not_evaluated_yet_is_wrong_input(runs, capsys):
    file = runs / "small-1" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["stages"]["evaluate"]
    file.write_text(json.dumps(manifest))
    assert main(["evaluate", "small-1", "--storage", str(runs)]) == 2
    assert "not finished" in capsys.readouterr().err


def test_every_setting_is_in_the_identity_but_where_files_are(runs):
    run = finished_run(open_storage(str(runs)).child("small-1"))
    plain = evaluation._identity(run, RobustnessSettings(), None)
    assert evaluation._identity(run, RobustnessSettings(data_root="/elsewhere"), None) == plain
    for other in ({"seed": 1}, {"images": 5}, {"severities": (1,)}, {"corruptions": ("fog",)}):
        assert evaluation._identity(run, RobustnessSettings(**other), None) != plain


def test_every_metric_for_mlflow_is_a_number():
    merits = {"auroc": 0.9, "fpr_at_95": 0.2}
    detection = merits | {"intervals": {"auroc": [0.8, 0.95]}, "minus_control": {"auroc": {"value": 0.1}}}
    found = {
        "corruption": {"predictors": {"averaged": {"mean": {"accuracy": 0.5}, "mce": 0.9}}},
        "out_of_distribution": {"predictors": {"averaged": {"entropy": detection}}},
        "risk_coverage": {"predictors": {"averaged": {"aurc": 0.1, "excess_aurc": 0.05, "risk": [0.1]}}},
    }
    assert flat_metrics(found) == {
        "corruption/averaged/accuracy": 0.5,
        "corruption/averaged/mce": 0.9,
        "out_of_distribution/averaged/entropy/auroc": 0.9,
        "out_of_distribution/averaged/entropy/fpr_at_95": 0.2,
        "risk_coverage/averaged/aurc": 0.1,
        "risk_coverage/averaged/excess_aurc": 0.05,
    }


def measured(*names):
    """What `ekd evaluate` found of these predictors, everything that it can find."""
    merits = {"auroc": 0.987, "fpr_at_95": 0.123}
    mean = {"accuracy": 0.87654, "nll": 0.4321, "ece": 0.0123}
    corrupted = {"mean": mean, "mce": 0.876, "severities": {f"{s}": mean for s in range(1, 6)}}
    coverage = {"aurc": 0.0123, "excess_aurc": 0.01}
    scores = dict.fromkeys(("max_probability", "entropy", "disagreement"), merits)
    return {
        "corruption": {"predictors": dict.fromkeys(names, corrupted)},
        "out_of_distribution": {"predictors": dict.fromkeys(names, scores)},
        "risk_coverage": {"predictors": dict.fromkeys(names, coverage)},
    }


NAMES = ["control", "control/best_teacher", *(f"teacher/{k}" for k in range(4)), "ensemble", "members"]
LEGEND = ("NLL", "ECE", "mCE", "AUROC", "FPR@95", "AURC")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_tables_fit_the_terminal_and_cut_no_name(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    console, found = results_console(), measured(*NAMES, "averaged")
    results = results_table(found)
    console.show(results, SPARE)
    clean = Predictor(params=1, macs=1, test={"accuracy": 0.99})
    console.show(severity_table(found, dict.fromkeys([*NAMES, "averaged"], clean)), SPARE_SEVERITIES)
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines)
    assert max(len(line) for line in lines if not line.startswith("(a wider terminal")) <= columns
    firsts = [line.split()[0] for line in lines if line]
    assert all(firsts.count(name) == 2 for name in [*NAMES, "averaged"])
    shown = {word for line in lines[:2] for word in line.split()}
    assert "predictor" in shown
    explained = {line.split(":")[0] for line in legend(results).splitlines()}
    assert explained == (shown & set(LEGEND)) | {"corrupted"}
    if columns == 120:
        assert set(LEGEND) <= shown


@pytest.mark.slow
def test_the_command_prints_writes_and_records(runs, capsys, monkeypatch, store_uri, open_tracker):
    tracker = open_tracker(ekd_run_id="small-1", instance="1.0", experiment="small")
    tracker.close("FINISHED")
    file = runs / "small-1" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mlflow": {"parent": tracker.run_id}}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    command = ["evaluate", "small-1", "--storage", str(runs), "--set", "outside=none"]
    assert main([*command, *(f"--set={text}" for text in QUICK)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == str(runs / "small-1" / "evaluation.json")
    assert "mCE" in shown.out
    assert "WARNING" not in shown.err
    assert "Beyond the test set" in (runs / "small-1" / "report.html").read_text()
    assert json.loads((runs / "small-1" / "owner.json").read_text())["released"]
    run = tracker.client.get_run(tracker.run_id)
    found = json.loads((runs / "small-1" / "evaluation.json").read_text())
    mce = found["corruption"]["predictors"]["averaged"]["mce"]
    assert run.data.metrics["corruption/averaged/mce"] == pytest.approx(mce)
    assert run.info.status == "FINISHED"
    artifacts = {artifact.path for artifact in tracker.client.list_artifacts(tracker.run_id)}
    assert {"evaluation.json", "report.html"} <= artifacts


def test_a_network_that_is_gone_is_one_line(runs, capsys):
    (runs / "small-1" / "networks" / "control.json").unlink()
    command = ["evaluate", "small-1", "--storage", str(runs), "--set", "outside=none"]
    assert main([*command, *(f"--set={text}" for text in QUICK)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "networks/control.json" in line


def test_a_run_that_somebody_is_running_is_left_alone(runs, capsys):
    from orchestrator.pipeline.lease import Lease

    with Lease(open_storage(str(runs / "small-1"))).acquire():
        assert main(["evaluate", "small-1", "--storage", str(runs)]) == 1
    assert "is being run by" in capsys.readouterr().err
    assert not (runs / "small-1" / "evaluation.json").exists()


def test_an_interruption_leaves_the_run_as_it_was(runs, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "_measure", interrupt)
    assert main(["evaluate", "small-1", "--storage", str(runs), "--set", "outside=none"]) == 1
    assert "nothing of this evaluation is kept" in capsys.readouterr().err
    assert json.loads((runs / "small-1" / "owner.json").read_text())["released"]


@pytest.mark.slow
def test_without_a_tracking_store_it_warns_and_measures(runs, capsys):
    command = ["evaluate", "small-1", "--storage", str(runs), "--set", "outside=none"]
    assert main([*command, *(f"--set={text}" for text in QUICK)]) == 0
    assert "not recorded in MLflow" in capsys.readouterr().err
    assert not (runs / "mlflow.db").exists()


@pytest.mark.slow
def test_the_report_is_written_anew_beside_the_run_and_in_mlflow(
    runs, capsys, monkeypatch, store_uri, open_tracker, tmp_path
):
    tracker = open_tracker(ekd_run_id="small-1", instance="1.0", experiment="small")
    tracker.show({"parent": RunState(artifacts={"report.html": "an old one"})})
    tracker.close("FINISHED")
    file = runs / "small-1" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mlflow": {"parent": tracker.run_id}}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    assert main(["report", "small-1", "--storage", str(runs)]) == 0
    shown = capsys.readouterr()
    written = runs / "small-1" / "report.html"
    assert (shown.out.splitlines()[-1], shown.err) == (str(written), "")
    kept = tracker.client.download_artifacts(tracker.run_id, "report.html", str(tmp_path))
    assert Path(kept).read_text() == written.read_text()
    assert tracker.client.get_run(tracker.run_id).info.status == "FINISHED"


def test_the_page_of_a_run_that_another_process_has_is_left_to_it(runs, capsys):
    page = runs / "small-1" / "report.html"
    page.write_text("its owner's")
    with Lease(open_storage(str(runs / "small-1"))).acquire(print):
        assert main(["report", "small-1", "--storage", str(runs)]) == 1
    shown = capsys.readouterr()
    assert "averaged" in shown.out
    assert "this run is being run by" in shown.err
    assert page.read_text() == "its owner's"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///nowhere/mlflow.db", "nonsense://x", None])
def test_a_report_without_a_tracking_store_is_written_with_one_line_of_warning(
    runs, capsys, monkeypatch, uri
):
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        file = runs / "small-1" / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"mlflow": {"parent": "0" * 32}}))
    assert main(["report", "small-1", "--storage", str(runs)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == str(runs / "small-1" / "report.html")
    assert shown.err.startswith("WARNING: the report in MLflow is as it was: ")
    assert shown.err.count("\n") == 1
    assert not (runs / "mlflow.db").exists()

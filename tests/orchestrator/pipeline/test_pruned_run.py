"""`ekd run` with teachers of two families and a pruned student: trained, recorded, exported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from ekd_process import EkdRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TRAINING = "{epochs: 6, batch_size: 20, learning_rate: 0.03, checkpoint_every: 1}"
SETTINGS = (
    "teachers=["
    f"{{count: 1, architecture: {{name: wide_resnet, depth: 10, stem_channels: 4}}, training: {TRAINING}}}, "
    f"{{count: 1, architecture: {{name: shufflenet_v2_x0_5, small_images: true}}, training: {TRAINING}}}]",
    "student.architecture={name: resnet, depth: 8, stem_channels: 8, pruned: 0.375}",
    f"student.training={TRAINING}",
    "student.average=picked",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> EkdRun:
    made = EkdRun(tmp_path_factory.mktemp("pruned"), SETTINGS)
    started = made.start()
    assert started.wait() == 0, started.err
    assert started.out.splitlines()[-1] == "models:/ekd-small/1"
    return made


def ekd(run: EkdRun, *words: str) -> list[str]:
    command = [sys.executable, "-m", "orchestrator", *words, "--storage", "runs"]
    return subprocess.check_output(command, cwd=run.folder, text=True).splitlines()


def test_control_and_averaged_student_are_the_same_pruned_network_in_size(run):
    predictors = run.summary()["predictors"]
    averaged = predictors["averaged"]
    # int(8 * 0.625) = 5, 10, 20 channels: counted by hand, layer by layer, with two numbers a BatchNorm.
    group = 9 * (5 * 5 + 5 * 5) + 9 * (5 * 10 + 10 * 10) + 9 * (10 * 20 + 20 * 20)
    norms = 2 * (5 + 2 * 5 + 2 * 10 + 2 * 20)
    assert averaged["params"] == 9 * 5 + group + norms + 20 * 10 + 10
    assert predictors["control"]["params"] == averaged["params"]
    assert predictors["control"]["macs"] == averaged["macs"]
    assert len({predictors[f"teacher/{i}"]["params"] for i in (0, 1)}) == 2


def test_the_unpruned_network_is_recorded_as_a_training_run(run):
    _, children = run.mlflow_runs()
    assert children.keys() == {"teacher-0", "teacher-1", "unpruned", "control", "student"}
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert set(run.manifest()["stages"]["teachers"]["outputs"]) == {"teacher-0", "teacher-1", "unpruned"}
    assert "unpruned     trained" in "\n".join(ekd(run, "status", run.RUN_ID))


def test_card_tag_and_report_name_the_pruning(run):
    version = run.client().get_model_version("ekd-small", "1")
    assert "with 37.5 % of its channels pruned" in version.description
    tags = run.client().get_logged_model(version.source.removeprefix("models:/")).tags
    assert tags["ekd.pruned"] == "0.375"
    assert json.loads(tags["ekd.architecture"])["pruned"] == 0.375
    assert "37.5 % of its channels pruned" in run.read("report.html").decode()


def test_summary_card_and_report_tell_how_much_each_member_counts(run):
    weights = run.summary()["member_weights"]
    assert len(weights) == 2
    assert sum(weights) == pytest.approx(1)
    told = f"averaged, with weights {weights[0]:.3g}, {weights[1]:.3g}, picked on validation images"
    assert told in run.client().get_model_version("ekd-small", "1").description
    assert told.replace(",", "", 1) in run.read("report.html").decode()
    _, children = run.mlflow_runs()
    assert "average" not in children


@pytest.mark.parametrize("source", [EkdRun.RUN_ID, "models:/ekd-small/1"])
def test_its_weights_load_into_what_the_card_builds(run, source):
    file = run.folder / "student.safetensors"
    ekd(run, "export", source, "--format", "state-dict", "--output", str(file), "--overwrite")
    card = run.client().get_model_version("ekd-small", "1").description
    code = card.split("## Its weights alone")[1].split("```python\n")[1].split("```")[0]
    made: dict = {}
    exec(code.replace("student.safetensors", str(file)), made)
    pt2 = run.folder / "student.pt2"
    ekd(run, "export", source, "--format", "pt2", "--output", str(pt2), "--overwrite")
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(made["network"].eval()(images), torch.export.load(pt2).module()(images))


def test_the_plan_said_what_it_would_be(run):
    settings = [part for setting in run.settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "orchestrator", "plan", "small.yaml", *settings]
    wide = {**os.environ, "COLUMNS": "160"}
    plan = subprocess.check_output(command, cwd=run.folder, text=True, env=wide)
    table = re.split(r"\nrun +architecture", plan)[1].split("\n\n")[0]
    rows = {line.split()[0]: line for line in table.splitlines()[1:]}
    assert list(rows) == ["teacher-0", "teacher-1", "unpruned", "control", "student"]
    assert "ResNet-8 less 37.5 % latent_be x2" in rows["student"]
    assert (
        f"{json.loads(run.read('summary.json'))['predictors']['averaged']['params'] / 1000:.2f} k"
        in rows["student"]
    )

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.registry import logged_model
from orchestrator.registry.exported_model import ExportError
from orchestrator.registry.listing import list_versions
from orchestrator.registry.logged_model import Recorded
from orchestrator.registry.provenance import lineage_tags, weights_sha256
from orchestrator.registry.registration import register_averaged_student
from orchestrator.tracking import TrackingError

CLASSES = [f"class {number}" for number in range(10)]
IMAGES = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)


class TinyStudent(nn.Module):
    """Normalises inside, as our classifiers do; defined where the loading process cannot import it."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.3), persistent=False)
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.classify = nn.Linear(4, 10)

    def forward(self, images):
        return self.classify(self.features(images - self.mean).mean((2, 3)))


class FixedBatch(TinyStudent):
    def forward(self, images):
        return super().forward(images.reshape(3, 1, 8, 8))


@pytest.fixture
def register(request):
    """Registers a student under a name of the test's own, unless told otherwise."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)

    def register_it(tracker, module=None, *, accuracy=0.9, nll=0.3, name=name, **changes):
        arguments = {
            "lineage": lineage_tags(
                teacher_run_ids=["t0", "t1"], data_fingerprint="fp", experiment_hash="eh", code="abc-dirty"
            ),
            "description": "# A card",
            "recorded": Recorded(
                {"ekd.macs": "17"},
                {"student.members": "3"},
                {"accuracy": 0.8, "validation/accuracy": accuracy, "validation/nll": nll},
            ),
            "class_names": CLASSES,
        }
        module = module or TinyStudent()
        return register_averaged_student(
            tracker, tracker.run_id, module, IMAGES, name=name, **(arguments | changes)
        )

    return register_it


@pytest.fixture
def later_runs(open_tracker):
    """Trackers of further `ekd run`s."""
    return lambda number: open_tracker(instance=f"later-{number}")


def versions(tracker, name):
    return sorted(int(v.version) for v in tracker.client.search_model_versions(f"name = '{name}'"))


def test_the_first_version_is_champion_with_lineage_card_and_signature(tracker, register):
    module = TinyStudent()
    registered = register(tracker, module)
    version = tracker.client.get_model_version(registered.name, registered.version)
    assert registered.uri == f"models:/{registered.name}/1"
    assert registered.aliases == ("champion",)
    assert registered.promotion.startswith("champion: the first champion")
    assert version.run_id == tracker.run_id
    assert version.description == "# A card"
    assert re.fullmatch("[0-9a-f]{64}", registered.archive_sha256)
    assert version.tags == {
        "ekd.run_id": tracker.ekd_run_id,
        "ekd.parent_run_id": tracker.run_id,
        "ekd.teacher_run_ids": "t0,t1",
        "ekd.data_fingerprint": "fp",
        "ekd.experiment_hash": "eh",
        "ekd.code_version": "abc-dirty",
        "ekd.archive_sha256": registered.archive_sha256,
        "ekd.promotion": registered.promotion,
    }
    assert len(version.tags) <= 8


def test_version_logged_model_and_run_lead_to_each_other_and_tell_the_same(tracker, register):
    module = TinyStudent()
    registered = register(tracker, module)
    client = tracker.client
    run = client.get_run(tracker.run_id)
    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", tracker.run_id)
    assert logged.name == f"averaged-student-of-{tracker.ekd_run_id}"
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": registered.name, "version": "1"}]
    version = client.get_model_version(registered.name, "1")
    assert (version.source, version.run_id) == (f"models:/{logged.model_id}", tracker.run_id)
    assert {m.key: m.value for m in logged.metrics} == run.data.metrics
    assert run.data.metrics == {"accuracy": 0.8, "validation/accuracy": 0.9, "validation/nll": 0.3}
    assert logged.params == {"student.members": "3"}
    assert logged.tags["ekd.weights_sha256"] == weights_sha256(module)
    (listed,) = list_versions(client, registered.name)
    assert listed.metrics == {**run.data.metrics, "macs": 17.0}
    assert listed.params == {"student.members": "3"}


def test_registering_changes_neither_the_module_nor_the_environment(tracker, register):
    module = TinyStudent().train()
    before = dict(os.environ)
    register(tracker, module)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert dict(os.environ) == before


LOAD = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("ekd_train", "orchestrator", "tune_spaces", "test_registration"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocked())
import mlflow.pyfunc, mlflow.pytorch, numpy as np, torch
uri, images = sys.argv[1], np.load(sys.argv[2])
network = mlflow.pytorch.load_model(uri)
network = torch.fx.GraphModule(network, network.graph).eval()
assert not network.training
about = mlflow.models.get_model_info(uri).metadata
assert about["class_names"] == [f"class {n}" for n in range(10)]
assert about["temperature"] == 1.0
trained = network(torch.from_numpy(images))
assert torch.equal(network.train()(torch.from_numpy(images)), trained)
assert torch.equal(network.eval()(torch.from_numpy(images)), trained)
logits = {f"batch{b}": network(torch.from_numpy(images[:b])).detach().numpy() for b in (1, 2, 7)}
served = mlflow.pyfunc.load_model(uri)
signature = served.metadata.signature
assert signature.inputs.inputs[0].shape == (-1, 1, 8, 8), signature
assert signature.outputs.inputs[0].shape == (-1, 10), signature
assert served.input_example.shape == (3, 1, 8, 8)
np.savez(sys.argv[3], served=served.predict(images), **logits)
print(open(mlflow.artifacts.download_artifacts(uri + "/requirements.txt")).read())
"""


@pytest.mark.slow
def test_the_champion_loads_where_this_project_is_not_installed(tracker, register, tmp_path):
    module = TinyStudent().train()
    for _ in range(3):
        module(torch.rand(16, 1, 8, 8))  # running statistics that differ from a batch's
    registered = register(tracker, module)
    images = np.random.default_rng(1).random((7, 1, 8, 8), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    answer = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, f"models:/{registered.name}@champion", "images.npy", "logits.npz"],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": tracker.uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    expected = module.eval()(torch.from_numpy(images)).detach().numpy()
    logits = np.load(tmp_path / "logits.npz")
    for batch in (1, 2, 7):
        np.testing.assert_allclose(logits[f"batch{batch}"], expected[:batch], atol=1e-5)
    np.testing.assert_allclose(logits["served"], expected, atol=1e-5)
    requirements = [line.split("==")[0] for line in answer.stdout.split()]
    assert sorted(requirements) == ["mlflow", "torch"]


@pytest.mark.slow
def test_champion_moves_to_a_better_version_and_not_to_a_worse_one(tracker, later_runs, register):
    first = register(tracker, TinyStudent(1), accuracy=0.90)
    worse = register(later_runs(1), TinyStudent(2), accuracy=0.89)
    better = register(later_runs(2), TinyStudent(3), accuracy=0.95)
    aliases = tracker.client.get_registered_model(first.name).aliases
    assert (worse.aliases, better.aliases) == (("challenger",), ("champion",))
    assert {alias: str(version) for alias, version in aliases.items()} == {
        "champion": better.version,
        "challenger": worse.version,
    }
    assert "not better" in worse.promotion


def test_of_two_challengers_only_the_later_ones_run_is_called_so(tracker, later_runs, register):
    runs = [tracker, later_runs(1), later_runs(2)]
    for number, run in enumerate(runs):
        register(run, TinyStudent(number), accuracy=0.9 - 0.1 * number)
    tags = [run.client.get_run(run.run_id).data.tags["ekd.alias"] for run in runs]
    assert tags == ["champion", "was challenger", "challenger"]


def test_a_network_that_is_there_already_is_called_so_and_is_no_second_champion(
    tracker, later_runs, register
):
    first = register(tracker, TinyStudent(1), accuracy=0.90)
    again = register(later_runs(1), TinyStudent(1), accuracy=0.95)
    assert (again.version, again.aliases) == ("2", ("challenger",))
    assert again.promotion == f"challenger: the same network as version {first.version}, weight for weight"


@pytest.mark.slow
def test_registering_again_finds_the_same_version_and_moves_no_alias(tracker, later_runs, register):
    first = register(tracker, TinyStudent(1), accuracy=0.90)
    register(later_runs(1), TinyStudent(2), accuracy=0.95)
    challenger = register(later_runs(2), TinyStudent(3), accuracy=0.94)
    again = register(tracker, TinyStudent(1), accuracy=0.90)
    assert again.version == first.version
    assert versions(tracker, first.name) == [1, 2, 3]
    aliases = tracker.client.get_registered_model(first.name).aliases
    assert str(aliases["challenger"]) == challenger.version


@pytest.mark.parametrize(
    "step",
    [
        "upload",
        "log_batch",
        "finalize_logged_model",
        "create_registered_model",
        "create_model_version",
        "set_registered_model_alias",
        "update_registered_model",
        "set_model_version_tag",
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupted_registration_is_completed_not_repeated(tracker, register, monkeypatch, step, after):
    name = f"interrupted-{step}-{after}"
    with monkeypatch.context() as patch:
        where = logged_model if step == "upload" else tracker.client
        done = getattr(where, step)

        def interrupted(*arguments, **named):
            if after:
                done(*arguments, **named)
            raise ConnectionError("the process dies here")

        patch.setattr(where, step, interrupted)
        with pytest.raises(TrackingError, match="dies here"):
            register(tracker, name=name)
    registered = register(tracker, name=name)
    assert versions(tracker, name) == [1]
    assert registered.aliases == ("champion",)
    assert registered.promotion == "champion: the first champion: validation accuracy 0.9000, NLL 0.3000"
    assert tracker.client.get_registered_model(name).description.startswith("Champion: version 1: the first")
    found = tracker.client.search_logged_models(
        [tracker.experiment_id], f"source_run_id = '{tracker.run_id}'"
    )
    assert [model.status for model in found].count("READY") == 1
    measured = tracker.client.get_metric_history(tracker.run_id, "accuracy")
    assert [(point.step, point.value) for point in measured] == [(0, 0.8)]


def test_a_network_that_takes_one_batch_size_only_is_refused(tracker, register):
    with pytest.raises(ExportError, match=r"FixedBatch cannot be exported|does not take a batch of 1"):
        register(tracker, FixedBatch())


def test_a_network_with_control_flow_on_values_is_refused_by_name(tracker, register):
    class Branching(TinyStudent):
        def forward(self, images):
            return super().forward(images if images.sum() > 0 else -images)

    with pytest.raises(ExportError, match="Branching cannot be exported"):
        register(tracker, Branching())


@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES[0], IMAGES.astype(np.float64)])
def test_example_images_that_would_fix_the_batch_are_refused(tracker, images):
    with pytest.raises(ValueError, match="expected float32"):
        register_averaged_student(
            tracker,
            tracker.run_id,
            TinyStudent(),
            images,
            name="never",
            lineage={},
            description="",
            recorded=Recorded(),
            class_names=CLASSES,
        )


def test_a_long_card_is_cut_to_what_every_registry_keeps(tracker, register):
    registered = register(tracker, description="x" * 9000)
    version = tracker.client.get_model_version(registered.name, registered.version)
    assert len(version.description) == 5000

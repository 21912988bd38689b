"""Where training begins that starts from weights: what a worker builds before its first step."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ekd_train.data import describe, load_dataset
from ekd_train.models import build_model
from ekd_train.models.build_network import averaged, build_network
from ekd_train.persistence.networks import Networks
from ekd_train.settings import DataSettings, TrainingRun
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.pretrained.check import read_given
from orchestrator.storage import open_storage

DATA = {"name": "digits", "validation_size": 300, "test_size": 300}
SHAPE = {"name": "resnet", "depth": 8, "stem_channels": 4}
HEAD = {"network.linear.weight", "network.linear.bias"}
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(DataSettings(**DATA))


def saved(folder: Path, classes: int) -> tuple[Path, State]:
    """Weights as none is drawn, in a file."""
    network = build_model(**SHAPE, num_classes=classes, in_channels=1, image_size=8)
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors", state


def begun(experiment: Experiment, dataset, folder: Path) -> dict[str, torch.nn.Module]:
    """Each network of the experiment as it is before its first step, from what the run has stored."""
    experiment, look = read_given(experiment)
    root = open_storage(str(folder / "runs"))
    networks = Networks(root.child("mine"), root.child("networks"), describe(dataset), "mine")
    networks.keep_pretrained(look(dataset, networks.data).weights)

    def build(run: TrainingRun) -> torch.nn.Module:
        torch.manual_seed(run.seed)
        return build_network(run, networks.data, networks.starting_weights(run))

    runs = (*experiment.teacher_runs(), experiment.control_run(), experiment.student_run())
    return {run.name: build(run) for run in runs}


def differing(one: State, other: State) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name].shape != other[name].shape or not one[name].equal(other[name])}


@pytest.mark.parametrize("method", ["kd", "latent_be", "lora"])
@pytest.mark.parametrize(("classes", "new"), [(10, set()), (7, HEAD)])
def test_student_and_control_start_from_the_same_weights_and_head(method, classes, new, dataset, tmp_path):
    file, theirs = saved(tmp_path, classes)
    student = {"method": method, "members": 2, "architecture": SHAPE | {"weights": str(file)}}
    tree = {"name": "mine", "data": DATA, "teachers": {"count": 2, "architecture": SHAPE}, "student": student}
    if method == "kd":
        tree["distillation"] = {"objective": "mean_kd"}
    networks = begun(build_experiment(tree | {"perturbation": {"kind": "none"}}), dataset, tmp_path)
    control = networks["control"].state_dict()
    assert differing(control, theirs) == new
    assert differing(control, averaged(networks["student"]).state_dict()) == set()


@pytest.mark.parametrize(("classes", "new"), [(10, set()), (7, HEAD)])
def test_fine_tuned_teachers_start_from_the_file_each_with_a_head_of_its_own(classes, new, dataset, tmp_path):
    file, theirs = saved(tmp_path, classes)
    teachers = {"weights": str(file), "fine_tune": True, "count": 2, "architecture": SHAPE}
    tree = {"name": "mine", "data": DATA, "teachers": teachers, "student": {"members": 2}}
    networks = begun(build_experiment(tree), dataset, tmp_path)
    first, second = (networks[f"teacher-{i}"].state_dict() for i in range(2))
    assert differing(first, theirs) == differing(second, theirs) == new
    assert differing(first, second) == new - {"network.linear.bias"}, "a new bias is 0"
    assert first["network.linear.weight"].shape[0] == 10

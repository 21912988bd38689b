"""Teachers from files: one network whatever the file, measured, refused in one line if it cannot teach."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ekd_train.data import describe, load_dataset
from ekd_train.data.augment import as_float
from ekd_train.models import build_model
from ekd_train.models.build_network import build_network
from ekd_train.settings import DataSettings
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, build_experiment
from orchestrator.pretrained.check import read_given
from orchestrator.pretrained.given import Given
from orchestrator.pretrained.measure import measured

pytestmark = pytest.mark.attack

DATA = {"name": "digits", "validation_size": 300, "test_size": 300}
SHAPE = {"name": "resnet", "depth": 8, "stem_channels": 4}
IMAGES = {"mean": [0.3], "std": [0.35]}


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(DataSettings(**DATA))


def a_network(seed: int = 0, num_classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(**SHAPE, **IMAGES, num_classes=num_classes, in_channels=1, image_size=8).eval()


@pytest.fixture(scope="module")
def trained(dataset) -> torch.nn.Module:
    """Better than chance, after an epoch."""
    network = a_network().train()
    images, labels = as_float(torch.from_numpy(dataset.train.images)), torch.from_numpy(dataset.train.labels)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for rows in torch.randperm(len(images)).split(64):
        loss = torch.nn.functional.cross_entropy(network(images[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def an_experiment(weights: object, *, student: dict | None = None, **changes: object) -> Experiment:
    group = {"weights": str(weights), "architecture": SHAPE, **IMAGES} | changes
    whole = {key: value for key, value in group.items() if value is not None}
    other = {"method": "kd", "architecture": SHAPE} | (student or {})
    return build_experiment({"name": "mine", "data": DATA, "teachers": [whole], "student": other})


def read(experiment: Experiment, dataset) -> tuple[Experiment, Given]:
    found, look = read_given(experiment)
    return found, look(dataset, describe(dataset))


def save(network: torch.nn.Module, folder: Path, form: str) -> Path:
    state = network.network.state_dict()
    match form:
        case "safetensors":
            save_file(state, file := folder / "a.safetensors")
        case "of a run":
            save_file(network.state_dict(), file := folder / "b.safetensors")
        case "state dict":
            torch.save(state, file := folder / "c.pth")
        case "wrapped twice":
            wrapped = {f"module.model.{name}": value for name, value in state.items()}
            torch.save({"epoch": 3, "model": wrapped, "optimizer": {"state": {}}}, file := folder / "d.pt")
        case "before batches were counted":
            old = {name: value for name, value in state.items() if "num_batches" not in name}
            torch.save(old, file := folder / "e.ckpt")
    return file


@pytest.mark.parametrize(
    "form", ["safetensors", "of a run", "state dict", "wrapped twice", "before batches were counted"]
)
def test_a_teacher_from_a_file_is_the_network_that_was_saved_there(form, trained, dataset, tmp_path):
    experiment, given = read(an_experiment(save(trained, tmp_path, form)), dataset)
    (run,) = experiment.teacher_runs()
    assert (run.role, run.epochs) == ("given", 0)
    network = build_network(run, describe(dataset))
    network.load_state_dict(given.weights[run.architecture.weights_sha256], strict=False)
    images = as_float(torch.from_numpy(dataset.validation.images))
    assert torch.equal(network.eval()(images), trained(images))
    assert not given.warnings


def test_it_is_measured_on_validation_images(trained, dataset, tmp_path):
    _, given = read(an_experiment(save(trained, tmp_path, "safetensors")), dataset)
    rows = torch.linspace(0, 299, 128, dtype=torch.float64).long()
    with torch.no_grad():
        answers = trained(as_float(torch.from_numpy(dataset.validation.images))[rows]).argmax(1)
    accuracy = (answers == torch.from_numpy(dataset.validation.labels)[rows]).double().mean().item()
    assert f"teacher-0: {100 * accuracy:.1f} % of 128 validation images" in given.lines[0]
    assert accuracy > 0.3


def test_one_that_knows_nothing_is_warned_of(dataset, tmp_path):
    network = a_network()
    torch.nn.init.zeros_(network.network.get_submodule("linear").weight)
    _, given = read(an_experiment(save(network, tmp_path, "safetensors")), dataset)
    assert "teachers.weights" in given.warnings[0]
    assert "which may be chance" in given.warnings[0]


def test_the_same_teacher_twice_is_warned_of(trained, dataset, tmp_path):
    file = save(trained, tmp_path, "safetensors")
    group = {"weights": str(file), "architecture": SHAPE, **IMAGES}
    tree = {"name": "mine", "data": DATA, "teachers": [group, group]}
    other = {"method": "kd", "architecture": SHAPE}
    _, given = read(build_experiment(tree | {"student": other}), dataset)
    assert len(given.warnings) == 1
    assert "teachers.1.weights" in given.warnings[0]
    assert "the same network as another teacher's" in given.warnings[0]


def test_a_constant_answer_is_chance_where_most_images_are_of_one_class(dataset):
    lopsided = np.zeros_like(dataset.validation.labels)
    lopsided[::20] = 1
    uneven = replace(dataset, validation=replace(dataset.validation, labels=lopsided))
    network = a_network()
    for parameter in network.network.get_submodule("linear").parameters():
        torch.nn.init.zeros_(parameter)
    (run,) = an_experiment("x.pth").teacher_runs()
    seen = measured(run, network.state_dict(), uneven, describe(dataset))
    assert seen.accuracy > 0.9
    assert seen.accuracy <= seen.by_luck


def test_what_decides_the_run_is_the_bytes_and_not_where_they_lie(tmp_path):
    first, again, other = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors"))
    save_file(a_network(0).network.state_dict(), first)
    again.write_bytes(first.read_bytes())
    save_file(a_network(1).network.state_dict(), other)
    ids = [read_given(an_experiment(file))[0].default_run_id() for file in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert read_given(an_experiment(first, image_size=16))[0].default_run_id() != ids[0]
    described = read_given(an_experiment(first))[0].teachers[0]
    assert build_experiment(read_given(an_experiment(first))[0].resolved()).teachers[0] == described


def test_a_hash_that_is_stated_is_compared(tmp_path):
    file = save(a_network(), tmp_path, "safetensors")
    found, _ = read_given(an_experiment(file))
    stated = found.teachers[0].weights_sha256
    assert read_given(an_experiment(file, weights_sha256=stated))[0] == found
    with pytest.raises(ExperimentError, match="weights_sha256 states"):
        read_given(an_experiment(file, weights_sha256="0" * 64))


def test_the_file_beside_an_export_says_what_the_network_is(trained, dataset, tmp_path):
    file = save(trained, tmp_path, "safetensors")
    build = {**SHAPE, **IMAGES, "image_size": 8, "num_classes": 10, "in_channels": 1}
    names = list(dataset.class_names)
    file.with_name(f"{file.name}.json").write_text(json.dumps({"build_model": build, "class_names": names}))
    experiment, _ = read(an_experiment(file, architecture=None, mean=None, std=None), dataset)
    group = experiment.teachers[0]
    assert (group.architecture.name, group.architecture.depth, group.mean) == ("resnet", 8, (0.3,))
    swapped = [names[1], names[0], *names[2:]]
    file.with_name(f"{file.name}.json").write_text(json.dumps({"build_model": build, "class_names": swapped}))
    with pytest.raises(ExperimentError, match="classes in another order: number 0 is"):
        read(an_experiment(file), dataset)


def beside(dataset, order: list[int], key: str) -> object:
    """Names of the classes as scripts save them: logit i is of the data's class order[i]."""
    names = [f"Digit-{dataset.class_names[i]}" for i in order]
    return {
        "classes": names,
        "class_names": tuple(names),
        "class_to_idx": {name: i for i, name in reversed(list(enumerate(names)))},
        "idx_to_class": dict(enumerate(names)),
        "meta": {"CLASSES": names},
        "config": {"id2label": {str(i): name for i, name in enumerate(names)}},
    }[key]


SWAPPED = [0, 3, 2, 1, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("key", ["classes", "class_names", "class_to_idx", "idx_to_class", "meta", "config"])
def test_names_of_classes_in_a_checkpoint_are_compared_whatever_their_case(key, trained, dataset, tmp_path):
    named = replace(dataset, class_names=tuple(f"digit_{name}" for name in dataset.class_names))
    state, file = trained.network.state_dict(), tmp_path / "a.pth"
    torch.save({"epoch": 3, key: beside(dataset, list(range(10)), key), "state_dict": state}, file)
    _, given = read(an_experiment(file), named)
    assert "not checked" not in given.lines[0]
    torch.save({"epoch": 3, key: beside(dataset, SWAPPED, key), "state_dict": state}, file)
    with pytest.raises(
        ExperimentError, match="in another order: number 1 is 'Digit-3', the data's 'digit_1'"
    ):
        read(an_experiment(file), named)


def test_the_order_that_is_asked_for_is_the_datas(trained, dataset, tmp_path):
    """A network whose logits are in the order of `theirs`, saved in the order that the message says."""
    theirs = [2, 0, 1, 3, 4, 5, 6, 7, 9, 8]
    state = {k: t[theirs] if "linear" in k else t for k, t in trained.network.state_dict().items()}
    names = beside(dataset, theirs, "classes")
    named = replace(dataset, class_names=tuple(f"digit_{name}" for name in dataset.class_names))
    torch.save({"classes": names, "state_dict": state}, file := tmp_path / "a.pth")
    with pytest.raises(
        ExperimentError, match=r"save them with linear\.bias and linear\.weight in the order"
    ) as raised:
        read(an_experiment(file), named)
    rows = json.loads(str(raised.value).partition("in the order ")[2].partition("]")[0] + "]")
    mended = {k: t[rows] if "linear" in k else t for k, t in state.items()}
    assert all(torch.equal(mended[k], t) for k, t in trained.network.state_dict().items())


@pytest.mark.parametrize(
    "names",
    [None, [f"\n{'x' * 900}\x1b[2J{i}" for i in range(10)], ["x"] * 10, [{}], {"a": 1 << 70}, ["a", "b"], 3],
)
def test_names_that_tell_no_order_are_said_to_tell_none(names, trained, dataset, tmp_path):
    torch.save({"classes": names, "state_dict": trained.network.state_dict()}, file := tmp_path / "a.pth")
    _, given = read(an_experiment(file), dataset)
    assert "order of classes: not checked" in given.lines[0]
    assert not {"\n", "\x1b"} & set(given.lines[0])
    assert len(given.lines[0]) < 600


def test_two_classes_that_are_swapped_without_names_are_warned_of(trained, dataset, tmp_path):
    """Right for all images but those of two classes, which only the classes' own recalls show."""
    rows = np.unique(np.linspace(0, len(dataset.validation) - 1, 128).astype(int))
    images = as_float(torch.from_numpy(dataset.validation.images))
    with torch.no_grad():
        answers = trained(images).argmax(1).numpy()
    right = replace(dataset, validation=replace(dataset.validation, labels=answers))
    _, given = read(an_experiment(save(trained, tmp_path, "state dict")), right)
    assert not given.warnings
    one, other = np.bincount(answers[rows]).argsort()[-2:]
    order = list(range(10))
    order[one], order[other] = order[other], order[one]
    state = {k: t[order] if "linear" in k else t for k, t in trained.network.state_dict().items()}
    torch.save(state, file := tmp_path / "swapped.pth")
    _, given = read(an_experiment(file), right)
    assert f"'{one}' ({(answers[rows] == one).sum()} images, most taken for '{other}')" in given.warnings[0]
    assert "are its classes in the data's order?" in given.warnings[0]


def prefixed(beginning: str, state: dict) -> dict:
    return {f"{beginning}{name}": tensor for name, tensor in state.items()}


def taught(experiment: Experiment, dataset) -> torch.nn.Module:
    """The network that the one given teacher becomes."""
    found, given = read(experiment, dataset)
    (run,) = found.teacher_runs()
    network = build_network(run, describe(dataset))
    network.load_state_dict(given.weights[run.architecture.weights_sha256], strict=False)
    return network.eval()


@pytest.mark.parametrize(
    ("keys", "way"),
    [
        (("model", "model_ema"), ("model", "model_ema")),
        (("state_dict", "ema.module"), ("state_dict", "ema.module")),
        (("net.", "ema_net."), ("net", "ema_net")),
        (("state_dict:net.", "state_dict:ema."), ("state_dict.net", "state_dict.ema")),
    ],
)
def test_of_two_networks_in_a_file_the_user_says_which(keys, way, trained, dataset, tmp_path):
    """Under two keys, two deep, or with two beginnings of names in one state dict."""
    content: dict = {"epoch": 3}
    for key, network in zip(keys, (a_network(7), trained), strict=True):
        outer, _, beginning = key.rpartition(":") if key.endswith(".") else (key, "", "")
        state = prefixed(beginning, network.network.state_dict())
        if not outer:
            content.pop("epoch", None)
            content |= state
        elif "." in outer:
            content[outer.partition(".")[0]] = {outer.partition(".")[2]: state}
        else:
            content[outer] = content.get(outer, {}) | state
    torch.save(content, file := tmp_path / "a.pth")
    with pytest.raises(
        ExperimentError, match=rf"several networks .*: {way[0]}, {way[1]}; name .*a\.pth#{way[0]}"
    ):
        read(an_experiment(file), dataset)
    images = as_float(torch.from_numpy(dataset.validation.images))
    for each, network in zip(way, (a_network(7), trained), strict=True):
        assert torch.equal(taught(an_experiment(f"{file}#{each}"), dataset)(images), network(images))
    ids = {read_given(an_experiment(f"{file}#{each}"))[0].default_run_id() for each in way}
    assert len(ids) == 2
    with pytest.raises(ExperimentError, match=rf"holds no 'nothing', but .*{way[0]}"):
        read(an_experiment(f"{file}#nothing"), dataset)


def test_the_one_state_dict_that_fits_is_taken_wherever_it_stands(trained, dataset, tmp_path):
    state = trained.network.state_dict()
    images = as_float(torch.from_numpy(dataset.validation.images))
    for content in (
        {"stats": {"loss": torch.zeros(3)}, "state_dict": state},
        {"state_dict": state, "model": dict(state)},  # the same twice
        {"teacher": {"fc.weight": torch.zeros(2, 2)}, "nested": {"model": state}},
    ):
        torch.save(content, file := tmp_path / "a.pth")
        assert torch.equal(taught(an_experiment(file), dataset)(images), trained(images))


@pytest.mark.parametrize(
    ("content", "left_out"),
    [
        (lambda s: {"n_averaged": torch.tensor(3)} | prefixed("module.", s), ["n_averaged"]),
        (
            lambda s: {"state_dict": prefixed("model.", s) | {"criterion.weight": torch.ones(10)}},
            ["criterion.weight"],
        ),
        (lambda s: prefixed("model.module.", s) | {"train_loss.sum": torch.ones(1)}, ["train_loss.sum"]),
        (lambda s: s | {"loss_fn.pos_weight": torch.ones(1)}, ["loss_fn.pos_weight"]),
    ],
    ids=["AveragedModel", "Lightning", "wrapped twice", "beside plain names"],
)
def test_what_a_training_module_has_beside_its_network_is_passed_over_and_said(
    content, left_out, trained, dataset, tmp_path
):
    torch.save(content(trained.network.state_dict()), file := tmp_path / "a.ckpt")
    images = as_float(torch.from_numpy(dataset.validation.images))
    assert torch.equal(taught(an_experiment(file), dataset)(images), trained(images))
    _, given = read(an_experiment(file), dataset)
    assert given.lines[0].endswith(f"passed over: {', '.join(map(repr, left_out))}")


def test_what_may_be_part_of_the_network_is_refused_unless_the_network_is_named(trained, dataset, tmp_path):
    state = prefixed("model.", trained.network.state_dict()) | {"projector.weight": torch.ones(3, 3)}
    torch.save({"state_dict": state}, file := tmp_path / "a.ckpt")
    with pytest.raises(ExperimentError, match=r"are projector\.weight; .*a\.ckpt#state_dict\.model$"):
        read(an_experiment(file), dataset)
    images = as_float(torch.from_numpy(dataset.validation.images))
    found = taught(an_experiment(f"{file}#state_dict.model"), dataset)
    assert torch.equal(found(images), trained(images))
    torch.save(trained.network.state_dict() | {"gate.weight": torch.ones(3)}, file)
    with pytest.raises(ExperimentError, match=r"they also have gate\.weight"):
        read(an_experiment(file), dataset)


def test_a_file_that_is_called_pth_tar_is_read(trained, dataset, tmp_path):
    torch.save(
        {"epoch": 3, "state_dict": trained.network.state_dict()}, file := tmp_path / "model_best.pth.tar"
    )
    images = as_float(torch.from_numpy(dataset.validation.images))
    assert torch.equal(taught(an_experiment(file), dataset)(images), trained(images))
    assert torch.equal(taught(an_experiment(f"{file}#state_dict"), dataset)(images), trained(images))


def test_programs_and_addresses_are_told_the_way(trained, tmp_path):
    torch.jit.trace(trained, torch.rand(2, 1, 8, 8)).save(str(tmp_path / "script.pt"))
    program = torch.export.export(trained, (torch.rand(2, 1, 8, 8),))
    for name in ("program.pt2", "program.pt"):
        torch.export.save(program, tmp_path / name)
    told = {
        tmp_path / "script.pt": r"TorchScript.*torch\.jit\.load\('a\.pt'\)\.state_dict\(\), 'weights\.pth'",
        tmp_path / "program.pt2": "Only an exported program",
        tmp_path / "program.pt": "Only an exported program",
        "https://example.org/a.pth": "download them, and give that file",
    }
    for weights, way in told.items():
        with pytest.raises(ExperimentError, match=way):
            read_given(an_experiment(weights))


def test_where_none_fits_the_one_most_alike_is_told_of(dataset, tmp_path):
    state = a_network().network.state_dict()
    del state["linear.bias"]
    torch.save({"stats": {"loss": torch.zeros(3)}, "state_dict": state}, file := tmp_path / "a.pth")
    with pytest.raises(ExperimentError, match=r"they lack linear\.bias; name theirs"):
        read(an_experiment(file), dataset)


def test_two_teachers_of_one_file_that_are_told_apart_by_architecture_need_a_name(dataset, tmp_path):
    deep = SHAPE | {"depth": 14}
    deeper = build_model(**deep, num_classes=10, in_channels=1, image_size=8)
    content = {"a": a_network().network.state_dict(), "b": deeper.network.state_dict()}
    torch.save(content, file := tmp_path / "a.pth")
    teachers = [{"weights": str(file), **IMAGES, "architecture": shape} for shape in (SHAPE, deep)]
    tree = {"name": "mine", "data": DATA, "student": {"method": "kd", "architecture": SHAPE}}
    with pytest.raises(ExperimentError, match=r"teachers\.1.*name this one.*#b"):
        read(build_experiment(tree | {"teachers": teachers}), dataset)
    for group, key in zip(teachers, "ab", strict=True):
        group["weights"] = f"{file}#{key}"
    _, given = read(build_experiment(tree | {"teachers": teachers}), dataset)
    assert len(given.weights) == 2


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": a_network().state_dict(), "x": Evil()}, "evil.pth")
    with pytest.raises(ExperimentError, match=r"state_dict\(\), 'weights.pth'"):
        read_given(an_experiment("evil.pth"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("nothing there", "there is no such file"),
        ("a folder", "no file of weights"),
        ("not safetensors", "damaged or no .safetensors file"),
        ("no tensors", "holds no state dict"),
        ("a bomb", r"damaged or no .pth file: its \d+ bytes unpack to \d+"),
        ("many files", "damaged or no .pth file: 10001 entries, more than 10000"),
        ("seven classes", "they have 7 classes, the data 10; take a teacher of the data's classes, or"),
        ("another network", "another network than architecture wide_resnet: they lack group2.0.sh"),
        ("wider", "other shapes than architecture resnet: .* not "),
        ("nameless", "Name its architecture"),
        ("NaN", "its logits are not finite"),
    ],
)
def test_what_cannot_teach_is_one_line_that_names_it(spoil, message, dataset, tmp_path):
    file, changes = tmp_path / "weights.safetensors", {}
    save_file(a_network(num_classes=7 if spoil == "seven classes" else 10).network.state_dict(), file)
    match spoil:
        case "nothing there":
            file.unlink()
        case "a folder":
            file = tmp_path
        case "not safetensors":
            file.write_bytes(b"{}")
        case "no tensors":
            torch.save({"epoch": 3}, file := tmp_path / "weights.pth")
        case "a bomb" | "many files":
            torch.save(a_network().network.state_dict(), file := tmp_path / "weights.pth")
            with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
                for number in range(1 if spoil == "a bomb" else 10_001 - len(archive.infolist())):
                    archive.writestr(f"x/{number}", bytes(10_000_000) if spoil == "a bomb" else b"")
        case "another network":
            changes["architecture"] = {"name": "wide_resnet", "depth": 10}
        case "wider":
            changes["architecture"] = SHAPE | {"width": 2}
        case "nameless":
            changes["architecture"] = None
        case "NaN":
            save_file({k: v * float("nan") for k, v in a_network().network.state_dict().items()}, file)
    with pytest.raises(ExperimentError, match=message) as raised:
        read(an_experiment(file, **changes), dataset)
    assert str(raised.value).startswith("teachers.weights: ")
    assert "\n" not in str(raised.value)


def test_probabilities_are_no_logits(dataset, tmp_path):
    """A head of zeros and a bias that sums to one: what a softmax would give, for any image."""
    network = a_network()
    head = network.network.get_submodule("linear")
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.arange(10) / 45)
    with pytest.raises(ExperimentError, match="probabilities"):
        read(an_experiment(save(network, tmp_path, "state dict")), dataset)


def test_outputs_that_a_sigmoid_may_have_made_are_warned_of(trained, dataset, tmp_path, monkeypatch):
    file = save(trained, tmp_path, "safetensors")
    assert not read(an_experiment(file), dataset)[1].warnings
    forward = type(trained.network).forward
    monkeypatch.setattr(
        type(trained.network), "forward", lambda self, images: forward(self, images).sigmoid()
    )
    (warning,) = read(an_experiment(file), dataset)[1].warnings
    assert "all its outputs lie in [0, 1]" in warning
    assert "take it off" in warning


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 2}, "count is 2, but these weights are one teacher"),
        ({"training": {"epochs": 3}}, "training: weights are used as they are"),
        ({"weights_sha256": "abc"}, "weights_sha256"),
        ({"mean": [0.5], "std": None}, "mean and std belong together"),
        ({"mean": [123], "std": [58]}, r"mean and std are of pixels in \[0, 1\]: divide"),
        ({"mean": [0.4], "std": [58]}, r"mean and std are of pixels in \[0, 1\]: divide"),
        ({"mean": [-2], "std": [1]}, r"mean and std are of pixels in \[0, 1\]: divide"),
        ({"architecture": SHAPE | {"image_size": 4}}, "beside architecture, not in it"),
        ({"weights": "s3://key:secret@bucket/a.pth"}, "credentials"),
    ],
)
def test_settings_that_contradict_weights_are_errors(changes, message):
    with pytest.raises(ExperimentError, match=message):
        an_experiment(**{"weights": "a.pth"} | changes)

"""Code of one's own: found, hashed, imported only where it is allowed, and wrong in one line."""

import sys

import pytest
import torch

from ekd_train import own_code
from ekd_train.data import DataError, load_dataset
from ekd_train.data.description import ImageSpec
from ekd_train.models import build_model
from ekd_train.models.build_network import build_plain
from ekd_train.objectives import build_objective
from ekd_train.own_code import OwnCodeError, allow, load, source_hash, sources, travelling
from ekd_train.perturbations import perturb
from ekd_train.settings import Architecture, DataSettings, Distillation, PerturbationSettings

pytestmark = pytest.mark.attack


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes a module of a name that no other test has used, into the folder where `ekd` is called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in own_code.sys.path if path])
    monkeypatch.setattr(own_code, "_allowed", {})
    names = iter(f"own_{tmp_path.name.replace('-', '_')}_{number}" for number in range(9))

    def write(text: str, *, allowed: bool = True) -> str:
        module = next(names)
        (tmp_path / f"{module}.py").write_text(text)
        if allowed:
            allow({module: source_hash(module)})
        return module

    return write


def test_what_nobody_allowed_is_not_imported(own_module):
    module = own_module("raise SystemExit('imported')", allowed=False)
    with pytest.raises(OwnCodeError, match="only runs if your own experiment file or command line names"):
        load(f"{module}:anything")


def test_another_source_than_the_runs_is_not_imported(own_module, tmp_path):
    module = own_module("def net(): pass")
    (tmp_path / f"{module}.py").write_text("raise SystemExit('imported')")
    with pytest.raises(OwnCodeError, match=f"{module} here has another source"):
        load(f"{module}:net")


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("import no_such_package", "net", r"cannot import own_\w+: ModuleNotFoundError.* searched were /"),
        ("other = 1", "net", r"own_\w+\.py has no 'net'"),
        ("def net(*_, **__): return 3", "net", "gave int, not a torch.nn.Module"),
        ("def net(*_, **__): raise KeyError('width')", "net", "KeyError: 'width'"),
    ],
)
def test_what_is_wrong_with_a_network_is_one_line_that_names_it(own_module, source, name, said):
    module = own_module(source)
    with pytest.raises(ValueError, match=rf"^{module}:{name}.*{said}") as error:
        build_model(f"{module}:{name}", num_classes=3)
    assert "\n" not in str(error.value)


def test_a_network_is_given_what_is_set_and_no_more(own_module):
    module = own_module(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, in_channels, image_size, width=3):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, width),\n"
        "                         nn.Linear(width, num_classes))\n"
    )
    shape = {"num_classes": 5, "in_channels": 2, "image_size": 4}
    # As `Architecture` hands them over: what nobody set is the default of `wide_resnet`.
    assert build_model(f"{module}:Net", **shape, width=1.0, stem_channels=16).network[1].out_features == 3
    assert build_model(f"{module}:Net", **shape, width=7).network[1].out_features == 7
    with pytest.raises(OwnCodeError, match="unexpected keyword argument 'depth'"):
        build_model(f"{module}:Net", **shape, depth=10)


def test_data_and_objectives_must_be_what_their_keys_ask_for(own_module):
    module = own_module("def of(settings): return settings")
    with pytest.raises(DataError, match=f"{module}:of: gave DataSettings; return an ekd_train.data.Source"):
        load_dataset(DataSettings(name=f"{module}:of"))
    with pytest.raises(ValueError, match=f"{module}:of gave Distillation, not an ekd_train.objectives"):
        build_objective(f"{module}:of", Distillation())


def test_options_are_keyword_arguments_of_ones_own_code(own_module):
    module = own_module(
        "import numpy as np\n"
        "from torch import nn\n"
        "from ekd_train.data import Source, Split\n"
        "from ekd_train.objectives import Objective\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, in_channels, image_size, *, widths):\n"
        "        sizes = [in_channels * image_size**2, *widths]\n"
        "        layers = [nn.Linear(*pair) for pair in zip(sizes, sizes[1:])]\n"
        "        super().__init__(nn.Flatten(), *layers, nn.Linear(sizes[-1], num_classes))\n"
        "class Loss(Objective):\n"
        "    def __init__(self, settings, *, sharpness=1.0):\n"
        "        self.sharpness = sharpness * settings.temperature\n"
        "    def __call__(self, predictions):\n"
        "        return {'loss': predictions.student.mean()}\n"
        "def grey(settings, *, level):\n"
        "    images, labels = np.full((40, 1, 4, 4), level, np.uint8), np.arange(40) % 2\n"
        "    return Source(train=Split(images, labels), test=Split(images, labels),\n"
        "                  class_names=('a', 'b'), official_order=False)\n"
        "def lighter(images, draw, networks, *, levels):\n"
        "    return images.new_full(images.shape, levels / 255)\n"
    )
    net = Architecture(name=f"{module}:Net", options={"widths": (7, 3)})
    spec = ImageSpec(num_classes=5, image_shape=(2, 4, 4), mean=(0.0, 0.0), std=(1.0, 1.0))
    assert [layer.out_features for layer in [*build_plain(net, spec).network][1:]] == [7, 3, 5]

    settings = Distillation(objective=f"{module}:Loss", temperature=3.0, options={"sharpness": 2})
    assert build_objective(settings.objective, settings).sharpness == 6
    with pytest.raises(OwnCodeError, match="unexpected keyword argument 'sharpnes'"):
        build_objective(settings.objective, settings.model_copy(update={"options": {"sharpnes": 2}}))

    data = DataSettings(name=f"{module}:grey", options={"level": 51}, validation_size=8)
    assert (load_dataset(data).train.images == 51).all()

    how = {"teachers": [], "student": None, "temperature": 1.0, "generator": torch.Generator()}
    kind, options = f"{module}:lighter", {"levels": 51}
    images = perturb(torch.zeros(3, 1, 4, 4), kind=kind, strength=2.0, options=options, **how)
    assert torch.allclose(images, torch.full((3, 1, 4, 4), 0.4))


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (Architecture, {"name": "resnet"}),
        (DataSettings, {"name": "digits"}),
        (Distillation, {"objective": "dist"}),
        (PerturbationSettings, {"kind": "ods"}),
    ],
)
def test_options_of_what_is_not_ones_own_are_refused(settings, values):
    (name,) = values.values()
    with pytest.raises(ValueError, match=f"options are of code of your own.*, not of {name}"):
        settings(**values, options={"sharpness": 2})


def test_what_only_built_in_objectives_apply_is_refused_beside_ones_own():
    for values in ({"standardise": True}, {"teacher_weights": "confidence"}):
        with pytest.raises(ValueError, match="mine:Loss has a target of its own: leave out standardise"):
            Distillation(objective="mine:Loss", **values)


def test_all_of_a_package_is_hashed_and_travels(own_module, tmp_path):
    package = tmp_path / "own_package_of_tests"
    (package / "nets").mkdir(parents=True)
    (package / "nets" / "small.py").write_text("from own_package_of_tests import layers")
    (package / "layers.py").write_text("width = 1")
    names = ["own_package_of_tests/layers.py", "own_package_of_tests/nets/small.py"]
    assert list(travelling("own_package_of_tests.nets.small")) == names
    before = source_hash("own_package_of_tests.nets.small")
    (package / "layers.py").write_text("width = 2")
    assert source_hash("own_package_of_tests.nets.small") != before


def test_what_a_module_imports_beside_it_is_hashed_and_travels_too(own_module, tmp_path):
    helper = own_module("width = 1")
    deeper = own_module(f"import {helper}, torch\nfrom ekd_train.models import build_model")
    module = own_module(
        f"def net():\n    from {deeper} import build_model\nimport no_such_module\nimport sys"
    )
    (tmp_path / "not_imported.py").write_text("")
    assert list(travelling(module)) == [f"{module}.py", f"{deeper}.py", f"{helper}.py"]
    before = source_hash(module)
    (tmp_path / f"{helper}.py").write_text("width = 2")
    assert source_hash(module) != before


def test_of_an_installed_package_the_module_is_hashed_and_nothing_travels():
    assert list(sources("torch.nn.modules.linear")) == ["linear.py"]
    assert travelling("torch.nn.modules.linear") == {}


OF_PYTHON = ["antigravity", "antigravity.x", "this.x.y", "unittest.__main__", "os", "subprocess", "builtins"]


@pytest.mark.parametrize("module", OF_PYTHON)
def test_a_module_of_pythons_own_is_refused_unimported(module):
    with pytest.raises(OwnCodeError, match=r"is a module of Python's own|is not Python source"):
        source_hash(module)
    assert not {"antigravity", "this"} & sys.modules.keys()


def test_a_package_is_not_run_to_find_a_module_of_it(tmp_path, monkeypatch):
    """An experiment names it, and its first line, whom it contacts, is not printed yet."""
    package = tmp_path / "site-packages" / "installed_package"
    (package / "inner").mkdir(parents=True)
    for folder in (package, package / "inner"):
        (folder / "__init__.py").write_text("raise SystemExit('it ran')")
    (package / "inner" / "net.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    assert list(sources("installed_package.inner.net")) == ["net.py"]
    for missing in ("installed_package.other", "installed_package.inner.net.x"):
        with pytest.raises(OwnCodeError, match="there is no such module"):
            sources(missing)
    assert "installed_package" not in sys.modules


def test_a_module_that_is_nowhere_says_where_it_was_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(
        OwnCodeError,
        match=rf"no_such_module: there is no such module; searched were {tmp_path}, PYTHONPATH \(not set",
    ):
        source_hash("no_such_module")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere:/and/there")
    with pytest.raises(OwnCodeError, match=r"PYTHONPATH \(/elsewhere:/and/there\) and what is installed in"):
        source_hash("no_such_module")

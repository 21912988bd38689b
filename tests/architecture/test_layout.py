"""The folders show the architecture, and every table shows what is in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ekd_train", "orchestrator", "tune_spaces")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_LINES = 300
MEANINGLESS = {"utils", "util", "helpers", "helper", "common", "misc", "core"}


def test_files_are_short_enough_to_read():
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in MODULES}
    assert not {name for name, count in lines.items() if count > MOST_LINES}


def test_names_say_what_is_inside():
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(ROOT).parts}
    assert not names & MEANINGLESS


def test_every_module_says_what_it_is_for():
    silent = [
        str(path) for path in MODULES if path.name != "__init__.py" and not path.read_text().startswith('"""')
    ]
    assert not silent


def test_imports_go_the_agreed_ways():
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("orchestrator.cli.main", {"torch", "ray", "mlflow", "pydantic", "numpy", "rich", "boto3", "yaml"}),
        ("orchestrator.experiment.schema", {"torch", "ray", "mlflow", "numpy", "boto3"}),
        ("orchestrator.planning.preflight", {"torch", "ray", "mlflow", "boto3"}),
        ("orchestrator.runtime.job_queue", {"torch", "mlflow", "boto3"}),
        ("ekd_train.data", {"torch", "torchvision", "ray"}),
        ("ekd_train.models", {"ray", "mlflow", "rich", "boto3"}),
    ],
)
def test_importing_it_imports_nothing_heavier(module, heavy):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not heavy & set(done.stdout.split())


def tables() -> dict[str, tuple[str, list[str]]]:
    """Where each table's tests are, and the names in it."""
    from ekd_train.data import LOADERS
    from ekd_train.models import SMALL_IMAGE_NETWORKS
    from ekd_train.objectives import METHOD_OBJECTIVES, OBJECTIVES
    from ekd_train.perturbations import PERTURBATIONS
    from ekd_train.robustness.corruptions import CORRUPTIONS

    return {
        "perturbations": ("tests/ekd_train/perturbations", list(PERTURBATIONS)),
        "objectives": ("tests/ekd_train/objectives", list(OBJECTIVES)),
        "methods": ("tests", list(METHOD_OBJECTIVES)),
        "data": ("tests/ekd_train/data", list(LOADERS)),
        "corruptions": ("tests/ekd_train/robustness/corruptions", list(CORRUPTIONS)),
        "architectures": ("tests/ekd_train/models", list(SMALL_IMAGE_NETWORKS)),
    }


@pytest.mark.parametrize(
    "table", ["perturbations", "objectives", "methods", "data", "corruptions", "architectures"]
)
def test_every_entry_of_a_table_is_tested_by_name(table):
    folder, names = tables()[table]
    tests = "\n".join(path.read_text() for path in (ROOT / folder).rglob("*.py"))
    untested = [name for name in names if not re.search(rf"\b{re.escape(name)}\b", tests)]
    assert not untested, f"no test below {folder} names {untested}"


def test_the_settings_know_exactly_what_the_tables_hold():
    from ekd_train.data import LOADERS
    from ekd_train.objectives import METHOD_OBJECTIVES, OBJECTIVES
    from ekd_train.perturbations import PERTURBATIONS
    from ekd_train.settings import DataName, ObjectiveName, PerturbationKind, StudentMethod

    assert set(PERTURBATIONS) == set(get_args(PerturbationKind))
    assert set(LOADERS) == set(get_args(DataName))
    assert set(METHOD_OBJECTIVES) == set(get_args(StudentMethod))
    assert set(get_args(ObjectiveName)) - {"auto"} == set(OBJECTIVES) - {"label"}


def test_each_folder_of_methods_has_tests_in_a_folder_of_its_name():
    for package in ("data", "models", "objectives", "perturbations", "robustness/corruptions"):
        assert list((ROOT / "tests" / "ekd_train" / package).glob("test_*.py")), package


def test_the_picture_and_the_folders_say_the_same():
    picture = re.search(r"```\n(orchestrator/ .*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert picture is not None
    shown, package = set(), ""
    for line in picture[1].splitlines():
        name = re.match(r"([├└]─ )?(\w+)/ +\S", line)
        assert name is not None, line
        package = package if name[1] else name[2]
        shown.add(f"{package}/{name[2]}" if name[1] else package)
    folders = [ROOT / package for package in PACKAGES]
    folders += [path for package in ("orchestrator", "ekd_train") for path in (ROOT / package).iterdir()]
    found = {str(path.relative_to(ROOT)) for path in folders if path.is_dir() and path.name != "__pycache__"}
    assert shown == found


def test_every_file_that_the_documents_link_to_is_there():
    pages = [
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "cluster/README.md")
    ]
    for page in (*pages, *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"

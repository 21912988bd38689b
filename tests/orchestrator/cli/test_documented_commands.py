"""What the documents tell a user to type is accepted, word for word, from the folder they say."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from ekd_train.data import load_dataset
from orchestrator.cli.checks import requested_search
from orchestrator.cli.main import EPILOG, build_parser
from orchestrator.cli.search_options import search_options
from orchestrator.experiment.schema import load_experiment
from orchestrator.experiment.smoke import make_small

ROOT = Path(__file__).parents[3]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "cluster/README.md")),
    *(ROOT / "docs").glob("*.md"),
]


def commands() -> list[str]:
    """Every `ekd ...` line of a shell block, and the examples of `ekd --help`."""
    blocks = [b for page in PAGES for b in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = {line for block in blocks for line in block.splitlines() if line.startswith("ekd ")}
    examples = {line.strip().partition("  ")[0] for line in EPILOG.splitlines() if "  ekd " in line}
    return sorted({line.partition(" > ")[0] for line in lines} | examples)


def modules() -> list[str]:
    """Every MODULE of `python -m MODULE`, wherever it is said."""
    return sorted({m for page in PAGES for m in re.findall(r"python -m ([\w.]+)", page.read_text())})


def scripts() -> list[str]:
    """Every FILE of `python FILE` or `sbatch ... FILE`, and TARGET of `make TARGET`, in a shell block."""
    blocks = [b for page in PAGES for b in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    found = re.findall(
        r"\b(?:python|sbatch[^\n]*?) ([\w/]+\.\w+)|^(make [\w-]+)", "\n".join(blocks), re.MULTILINE
    )
    return sorted({file or target for file, target in found})


@pytest.mark.parametrize("script", scripts())
def test_a_documented_script_or_target_is_there(script):
    if target := re.fullmatch(r"make (\S+)", script):
        assert re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert (ROOT / script).is_file()


def test_there_are_such_commands():
    assert {"docs/examples/ensemble.py", "cluster/slurm/ekd.sbatch", "make demo"} <= set(scripts())
    assert len(commands()) >= 10
    assert len(modules()) >= 8


@pytest.mark.parametrize("module", modules())
def test_a_documented_module_is_there(module, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    found = importlib.util.find_spec(module)
    assert found is not None
    assert (
        found.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__") is not None
    )


def test_the_examples_of_the_help_fit_a_terminal():
    assert max(map(len, EPILOG.splitlines())) <= 80


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_is_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    parsed = build_parser().parse_args(shlex.split(command, comments=True)[1:])
    source = getattr(parsed, "experiment", None)
    if source is None:
        return
    if not Path(source).exists() and source.endswith(".yaml"):  # `mine.yaml` is any experiment
        mine = tmp_path / "mine.yaml"
        mine.write_text((ROOT / "orchestrator/experiments/digits.yaml").read_text())
        source = str(mine)
    experiment = load_experiment(source, parsed.overrides)
    if getattr(parsed, "smoke", False):
        experiment = make_small(experiment)
    if getattr(parsed, "space", None) is not None:
        requested_search(experiment, **search_options(parsed))
    if experiment.data.name == "digits":
        load_dataset(experiment.data)

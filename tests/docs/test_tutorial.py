"""The tutorial with an ensemble that exists: its commands, made short, in a fresh folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial_ensemble.md"
SHORT = {
    "python docs/examples/photographs.py photographs": "--share 0.2",
    "python docs/examples/ensemble.py photographs": "--epochs 1",
    "ekd run docs/examples/your_ensemble.yaml": "--set student.training.epochs=1 "
    "--set student.training.schedule.warmup_epochs=0",
    "ekd export models:/ekd-your_ensemble@champion --output student.onnx": "",
}


def test_the_page_and_the_example_say_the_same():
    shown = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    example = (ROOT / "docs/examples/your_ensemble.yaml").read_text()
    stripped = [re.sub(r"\s+#.*", "", line) for line in shown.splitlines()]
    assert stripped == [line for line in example.splitlines() if not line.startswith("#")]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eight processes, two of which start Ray: 600 s were too few on a busy machine
def test_every_command_of_the_page_runs_in_the_order_of_the_page(tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = {}
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        words = shlex.split(f"{command} {SHORT.get(command, '')}")
        if words[:2] == ["ekd", "run"]:
            words += ["--set", "cluster.address=local"]
        if words[1] == "export":  # one epoch may leave it a challenger
            words = [word.replace("@champion", "/1") for word in words]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=kept | {"PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
        printed[command] = done.stdout
    assert "given" in printed["ekd plan docs/examples/your_ensemble.yaml"]
    assert (
        printed["ekd run docs/examples/your_ensemble.yaml"]
        .splitlines()[-1]
        .startswith("models:/ekd-your_ensemble/")
    )
    assert (tmp_path / "student.onnx").stat().st_size > 1_000_000
    assert (tmp_path / "student.onnx.json").is_file()

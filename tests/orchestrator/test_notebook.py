"""The notebook of docs/python.md, cell after cell: three networks that exist teach one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/examples/three_networks_to_one.ipynb"
SEEN = "\nimport json\njson.dump([measured, summary.to_json()], open('seen.json', 'w'))\n"


@pytest.mark.slow
def test_the_notebook_goes_from_three_networks_to_one_and_trains_no_teacher(tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join("".join(cell["source"]) for cell in cells) + SEEN],
        cwd=tmp_path,
        env=kept | {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured, summary = json.loads((tmp_path / "seen.json").read_text())
    teachers, found = [f"teacher-{index}" for index in range(3)], summary["predictors"]
    theirs = [found[name.replace("-", "/")]["validation"]["accuracy"] for name in teachers]
    assert theirs == pytest.approx(measured, abs=1e-9)
    assert {name: source["used"] for name, source in summary["sources"].items()} == dict.fromkeys(
        teachers, "as they are"
    )
    folder = tmp_path / "ekd-runs" / summary["run_id"]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"control", "student"}
    assert {"averaged", "control", "members", "ensemble"} <= found.keys()
    assert f"averaged   {100 * found['averaged']['test']['accuracy']:6.2f} %" in done.stdout
    assert summary["registered_model"]["uri"] == "models:/ekd-three_to_one/1"

"""The notebook of docs/python.md in a kernel, cell after cell: three networks that exist teach one."""

import json
import os
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/examples/three_networks_to_one.ipynb"
SEEN = "import json\nwith open('seen.json', 'w') as file: json.dump([measured, summary.to_json()], file)\n"


@pytest.mark.slow
def test_the_notebook_goes_from_three_networks_to_one_and_trains_no_teacher(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    notebook.cells.append(nbformat.v4.new_code_cell(SEEN))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=1500, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=kept | {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"})
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    shown = [out.data["text/plain"] for out in outputs if out.output_type == "display_data"]
    assert shown.count("teachers ...\n") == shown.count("report ...\n") == 1, "a line of the run's progress"
    printed = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
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
    assert f"averaged   {100 * found['averaged']['test']['accuracy']:6.2f} %" in printed
    assert summary["registered_model"]["uri"] == "models:/ekd-three_to_one/1"

"""Where runs stand, read from their storage alone; neither Ray nor MLflow is asked."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from rich.table import Table

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import build_experiment
from orchestrator.pipeline.lease import LEASE, LEASE_S, is_gone
from orchestrator.pipeline.manifest import EXPERIMENT, FORMAT, MANIFEST, read_json, read_manifest
from orchestrator.pipeline.order import training_runs
from orchestrator.pipeline.progress import duration
from orchestrator.storage import Storage, StorageError


def all_runs(storage: Storage) -> Table | str:
    """One line for each run below `storage`, newest first; a sentence if there is none.

    Raises `ExperimentError` if the storage is not a folder.
    """
    folder = storage.local_folder
    if folder is not None and os.path.exists(folder) and not folder.is_dir():
        raise ExperimentError(
            f"{folder} is a file; --storage takes the folder or s3:// URI that runs are kept in"
        )
    ids = {
        key.split("/")[0] for key in storage.list() if key.count("/") == 1 and key.endswith(f"/{MANIFEST}")
    }
    if not ids:
        return f"no runs in {storage.uri()}; --storage names another place"
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "state", "last stage", "averaged", "model", "changed"):
        made.add_column(heading, no_wrap=True)
    rows = [_row(storage.child(run_id), run_id) for run_id in sorted(ids)]
    for _, cells in sorted(rows, key=lambda row: -row[0]):
        made.add_row(*cells)
    return made


def _row(run: Storage, run_id: str) -> tuple[float, list[str]]:
    """When a run changed, and its cells; one that cannot be read says so instead of hiding the others."""
    try:
        return _readable_row(run, run_id)
    except StorageError:
        raise
    except Exception:  # whatever somebody has written there
        return 0.0, [run_id, "unreadable", "", "", "`ekd status` with its id says why", ""]


def _readable_row(run: Storage, run_id: str) -> tuple[float, list[str]]:
    content = _manifest(run)
    stages = content["stages"]
    predictors = stages.get("evaluate", {}).get("outputs", {}).get("predictors")
    return content["updated"], [
        run_id,
        str(state(run, content)),
        list(stages)[-1] if stages else "",
        f"{100 * predictors['averaged']['test']['accuracy']:.2f} %" if predictors else "",
        str(stages.get("register", {}).get("outputs", {}).get("uri", "")),
        _ago(time.time() - content["updated"]),
    ]


def _ago(seconds: float) -> str:
    """In one unit.

    >>> _ago(125), _ago(200_000)
    ('2 min ago', '2 days ago')
    """
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"


def one_run(run: Storage, run_id: str) -> str:
    """The stages and training runs of one run, as lines. Raises `ExperimentError` if it is damaged."""
    content, experiment = _manifest(run), read_json(run, EXPERIMENT) or {}
    lines = [f"{run_id}: {state(run, content)}, experiment {content['experiment']}, {run.uri()}", ""]
    for name, stage in content["stages"].items():
        lines.append(f"  {name:10s} done  {duration(stage['seconds'])}")
    lines.append("")
    keys = run.list()
    runs = training_runs(build_experiment(experiment)) if experiment else ()
    for name, epochs in ((run.name, run.training.epochs) for run in runs):
        if f"networks/{name}.json" in keys:
            lines.append(f"  {name:12s} trained")
            continue
        saved = [int(m[1]) for k in keys if (m := re.fullmatch(rf"checkpoints/{name}/epoch-(\d+)\.json", k))]
        lines.append(
            f"  {name:12s} " + (f"checkpoint after epoch {max(saved)} of {epochs}" if saved else "not begun")
        )
    if "register" in content["stages"]:
        registered = content["stages"]["register"]["outputs"]
        lines += ["", f"  {registered['uri']}  {registered['promotion']}"]
    return "\n".join(lines)


def _manifest(run: Storage) -> dict[str, Any]:
    content = read_manifest(run) or {}
    if not (
        {"run_id", "experiment", "stages", "updated"} <= content.keys() and content.get("format") == FORMAT
    ):
        raise ExperimentError(f"{run.uri(MANIFEST)}: not the manifest of a run of this version of ekd")
    return content


def state(run: Storage, manifest: dict[str, Any]) -> str:
    """The run's state as stored; "running" only while its driver's lease is fresh."""
    stored: str = manifest.get("status", "unknown")
    if stored != "running":
        return stored
    owner = read_json(run, LEASE)
    if owner is None:
        return "stopped"
    return "stopped" if is_gone(owner) or time.time() - owner.get("since", 0) > 2 * LEASE_S else "running"

"""Where runs stand, read from their storage alone; neither Ray nor MLflow is asked."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from orchestrator.manifest import EXPERIMENT, MANIFEST, read_json
from orchestrator.ownership import LEASE, LEASE_S
from orchestrator.storage import Storage
from orchestrator.view import duration

if TYPE_CHECKING:
    from rich.table import Table


def all_runs_table(storage: Storage) -> Table:
    """One line for each run below `storage`, newest first."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "state", "stages done", "averaged acc.", "model", "changed"):
        made.add_column(heading, no_wrap=True)
    ids = sorted(
        {key.split("/")[0] for key in storage.list() if key.count("/") == 1 and key.endswith(MANIFEST)}
    )
    found = [(run_id, storage.child(run_id)) for run_id in ids]
    manifests = [(run_id, run, read_json(run, MANIFEST) or {}) for run_id, run in found]
    for run_id, run, content in sorted(manifests, key=lambda item: -item[2]["updated"]):
        stages = content["stages"]
        predictors = stages.get("evaluate", {}).get("outputs", {}).get("predictors")
        accuracy = f"{100 * predictors['averaged']['test']['accuracy']:.2f} %" if predictors else ""
        made.add_row(
            run_id,
            state(run, content),
            f"{len(stages)} ({list(stages)[-1]})" if stages else "0",
            accuracy,
            stages.get("register", {}).get("outputs", {}).get("uri", ""),
            f"{duration(time.time() - content['updated'])} ago",
        )
    return made


def one_run(run: Storage, run_id: str) -> str:
    """The stages and training runs of one run, as lines."""
    content, experiment = read_json(run, MANIFEST) or {}, read_json(run, EXPERIMENT) or {}
    lines = [f"{run_id}: {state(run, content)}, experiment {content['experiment']}, {run.uri()}", ""]
    for name, stage in content["stages"].items():
        lines.append(f"  {name:10s} done  {duration(stage['seconds'])}")
    lines.append("")
    keys = run.list()
    for name, epochs in _training_runs(experiment):
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


def state(run: Storage, manifest: dict[str, Any]) -> str:
    """The run's state as stored; "running" only while its driver's lease is fresh."""
    stored: str = manifest.get("status", "unknown")
    if stored != "running":
        return stored
    owner = read_json(run, LEASE)
    if owner is None:
        return "stopped"
    from orchestrator.ownership import is_gone

    return "stopped" if is_gone(owner) or time.time() - owner.get("since", 0) > 2 * LEASE_S else "running"


def _training_runs(experiment: dict[str, Any]) -> list[tuple[str, int]]:
    groups = experiment.get("teachers", [])
    epochs = [g["training"]["epochs"] for g in groups for _ in range(g["count"])]
    student = experiment["student"]["training"]["epochs"]
    return [*((f"teacher-{i}", n) for i, n in enumerate(epochs)), ("control", student), ("student", student)]

"""The state of runs, read from their storage alone: neither Ray nor MLflow is asked."""

import math
import os
import re
import time
from contextlib import suppress
from typing import Literal, cast

from rich.table import Table

from ekd_train.persistence.records import NewerRecord
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.lease import LEASE_S
from orchestrator.pipeline.lease_holder import LEASE, holder_in
from orchestrator.pipeline.manifest import MANIFEST, STATES, read_experiment, read_manifest
from orchestrator.pipeline.manifest_content import ManifestContent
from orchestrator.pipeline.order import training_runs
from orchestrator.pipeline.progress import duration
from orchestrator.pipeline.training_now import read_training
from orchestrator.storage import MissingKey, Storage, StorageError, TooLarge
from orchestrator.tuning.table import outcome

RunState = Literal["running", "stopped", "done", "interrupted", "failed"]
"""`stopped`: its driver ended without saying how."""

HEADINGS = ("run", "state", "last stage", "averaged", "model", "changed")
SPARE = ("last stage", "changed", "model", "averaged")
"""Headings of columns that a narrow terminal can do without, the first of them first."""


def stored_runs(storage: Storage) -> list[str]:
    """The ids of the runs below `storage`, newest first. Raises `ExperimentError` if it is no folder."""
    return [cells[0] for cells in _rows(storage)]


def all_runs(storage: Storage) -> Table:
    """A table with a row for each run below `storage`, newest first.

    Raises `ExperimentError` if the storage is not a folder.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        made.add_column(heading, overflow="fold", no_wrap=heading != "run")
    for cells in _rows(storage):
        made.add_row(*cells)
    return made


def _rows(storage: Storage) -> list[list[str]]:
    folder = storage.local_folder
    if folder is not None and os.path.exists(folder) and not folder.is_dir():
        raise ExperimentError(
            f"{folder} is a file; --storage takes the folder or s3:// URI that runs are kept in"
        )
    ids = {
        key.split("/")[0] for key in storage.list() if key.count("/") == 1 and key.endswith(f"/{MANIFEST}")
    }
    rows = [_row(storage.child(run_id), run_id) for run_id in sorted(ids)]
    return [cells for _, cells in sorted(rows, key=lambda row: -row[0])]


def _row(run: Storage, run_id: str) -> tuple[float, list[str]]:
    """When a run changed, and its cells; one that cannot be read says so and hides no other."""
    try:
        return _readable_row(run, run_id)
    except StorageError:
        raise
    except Exception:  # whatever somebody has written there
        return -math.inf, [run_id, "unreadable", "", "", "`ekd status` with its id says why", ""]


def _readable_row(run: Storage, run_id: str) -> tuple[float, list[str]]:
    manifest, accuracy = _manifest(run), ""
    if manifest.done("evaluate"):
        measured = manifest.evaluated.predictors["averaged"].test
        accuracy = f"{100 * measured['accuracy']:.2f} %"
    age = run.age_s(MANIFEST)  # by the store's clock: what a manifest says is by its driver's
    return time.monotonic() - age, [
        run_id,
        state_of(run, manifest),
        next(reversed(manifest.stages), ""),
        accuracy,
        manifest.registered.uri if manifest.done("register") else "",
        _ago(age),
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
    manifest, experiment = _manifest(run), read_experiment(run)
    lines = [f"{run_id}: {state_of(run, manifest)}, experiment {manifest.experiment}, {run.uri()}", ""]
    lines += [f"  {name:10s} done  {duration(stage.seconds)}" for name, stage in manifest.stages.items()]
    lines.append("")
    keys = run.list()
    now = read_training(run) if state_of(run, manifest) == "running" else {}
    teachers = experiment.teacher_runs() if experiment is not None else ()
    given = {run.name for run in teachers if run.role == "given"}
    planned = _epochs(experiment)
    for name, epochs in planned:
        if f"networks/{name}.json" in keys:
            reused = manifest.trained[name].reused_from if name in manifest.trained else None
            done = "given" if name in given else "trained"
            lines.append(f"  {name:12s} " + (f"reused, trained by {reused}" if reused else done))
            continue
        if name in now:
            lines.append(f"  {name:12s} {now[name]}")
            continue
        saved = [int(m[1]) for k in keys if (m := re.fullmatch(rf"checkpoints/{name}/epoch-(\d+)\.json", k))]
        lines.append(
            f"  {name:12s} " + (f"checkpoint after epoch {max(saved)} of {epochs}" if saved else "not begun")
        )
    trials = sorted(now.keys() - {name for name, _ in planned})
    lines += [f"  {name:12s} {now[name]}" for name in trials]
    if found := outcome(manifest):
        lines += ["", *(f"  {sentence}" for sentence in found)]
    if manifest.done("register"):
        lines += ["", f"  {manifest.registered.uri}  {manifest.registered.promotion_then}"]
    return "\n".join(lines)


def _manifest(run: Storage) -> ManifestContent:
    manifest = read_manifest(run)
    if manifest is None:
        raise ExperimentError(f"{run.uri(MANIFEST)}: is missing")
    return manifest


def state_of(run: Storage, manifest: ManifestContent) -> RunState:
    """The run's state as stored; "running" only while its driver's lease is fresh."""
    if manifest.status in STATES.values():
        return cast(RunState, manifest.status)
    with suppress(MissingKey, TooLarge):
        try:
            holder = holder_in(run.read(LEASE))
        except NewerRecord:  # who knows; nothing of it is touched
            return "running"
        if holder is not None and not holder.has_ended:
            # Not by what it says of the time: that is of its own host's clock.
            fresh = holder.is_on_this_host or run.age_s(LEASE) <= 2 * LEASE_S
            return "running" if fresh else "stopped"
    return "stopped"


def _epochs(experiment: Experiment | None) -> list[tuple[str, int]]:
    """Name and epochs of every training run; nothing of an experiment that is lost."""
    if experiment is None:
        return []
    return [(run.name, run.epochs) for run in training_runs(experiment)]

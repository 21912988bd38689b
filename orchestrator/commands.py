"""What each `ekd` command does. Functions are named as the commands are."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.experiment import ExperimentError, find_experiment, load_experiment, packaged_experiments

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.experiment import Experiment
    from orchestrator.storage import Storage


def run(arguments: argparse.Namespace) -> int:
    """`ekd run`: the whole main job."""
    checked = _check(arguments)
    from orchestrator.launch import LaunchError
    from orchestrator.ownership import OwnedByAnother
    from orchestrator.pipeline import RunFailed
    from orchestrator.pipeline import run as run_pipeline
    from orchestrator.preflight import one_line
    from orchestrator.storage import StorageError
    from orchestrator.summary import summarise, table, verdict
    from orchestrator.tracking import TrackingError, ui_command

    try:
        manifest = run_pipeline(checked)
    except (RunFailed, LaunchError, OwnedByAnother, StorageError, TrackingError) as error:
        print(f"ekd: {one_line(error)}", file=sys.stderr)
        print("ekd: what is done is kept; the same command continues from there", file=sys.stderr)
        return 1
    summary = summarise(manifest.content)
    registered = manifest.outputs("register")
    console = _console()
    console.print(table(summary["predictors"]))
    console.print()
    console.print(verdict(summary["predictors"]), soft_wrap=True)
    console.print(f"Registered: {registered['promotion']}", soft_wrap=True)
    console.print(f"Report: {checked.storage.uri('report.html')}", soft_wrap=True)
    console.print(f"Look at it: {ui_command(checked.tracking_uri)}", soft_wrap=True)
    console.print(registered["uri"], soft_wrap=True)
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """`ekd plan`: what would run."""
    search = None
    if arguments.space is not None:
        search, checked = _check_search(arguments)
    else:
        checked = _check(arguments)
    from orchestrator.launch import local_capacity, wanted_address
    from orchestrator.plan import planned_runs, runs_table, workers_line
    from orchestrator.preflight import check_capacity
    from orchestrator.summary import compact
    from orchestrator.tracking import redacted

    experiment, description = checked.experiment, checked.description
    capacity = local_capacity() if wanted_address(experiment.cluster) is None else _remote_capacity(checked)
    check_capacity(experiment, capacity)
    planned = planned_runs(experiment, description)
    console = _console()
    console.print(f"run id    {checked.run_id}", soft_wrap=True)
    shape = "x".join(map(str, description["image_shape"]))
    console.print(
        f"data      {description['name']}: {description['train']} training, "
        f"{description['validation']} validation, {description['test']} test images of {shape}, {description['num_classes']} classes",
        soft_wrap=True,
    )
    console.print(f"cluster   {capacity.describe()}", soft_wrap=True)
    console.print(f"workers   {workers_line(experiment, capacity)}", soft_wrap=True)
    console.print(f"storage   {checked.storage.uri()}", soft_wrap=True)
    console.print(
        f"tracking  {redacted(checked.tracking_uri)}, model {experiment.model_name}", soft_wrap=True
    )
    console.print()
    console.print(runs_table(planned, experiment))
    console.print()
    total = f"{compact(sum(item.flops for item in planned))} FLOPs of training"
    console.print(f"total     {total}{', without the search' if search else ''}", soft_wrap=True)
    if search is not None:
        from orchestrator.tuning.plan import search_lines

        console.print()
        for line in search_lines(search, experiment, description, capacity):
            console.print(line, soft_wrap=True)
    return 0


def tune(arguments: argparse.Namespace) -> int:
    """`ekd tune`: search, then the best configuration in full."""
    request, checked = _check_search(arguments)
    from orchestrator.tuning.command import tune as run_tune

    return run_tune(checked, request)


def status(arguments: argparse.Namespace) -> int:
    """`ekd status`: all runs, or one."""
    from orchestrator import standing

    storage = _open_storage(arguments.storage, arguments.endpoint_url)
    console = _console()
    if arguments.run_id is None:
        console.print(standing.all_runs_table(storage))
    else:
        console.print(standing.one_run(_run_storage(storage, arguments.run_id), arguments.run_id))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """`ekd report`: the results of a run, as a table here and as a page."""
    from orchestrator.report import REPORT, load_evidence, render
    from orchestrator.summary import table, verdict

    storage = _run_storage(_open_storage(arguments.storage, arguments.endpoint_url), arguments.run_id)
    evidence = load_evidence(storage)
    storage.write(REPORT, render(evidence).encode())
    console = _console()
    console.print(table(evidence.predictors))
    console.print()
    console.print(verdict(evidence.predictors), soft_wrap=True)
    if model := evidence.summary.get("registered_model"):
        console.print(f"Registered: models:/{model['name']}/{model['version']}", soft_wrap=True)
    console.print(storage.uri(REPORT), soft_wrap=True)
    return 0


def experiments(arguments: argparse.Namespace) -> int:
    """`ekd experiments`: what is packaged."""
    if arguments.name is not None:
        print(find_experiment(arguments.name).read_text(), end="")
        return 0
    for name in packaged_experiments():
        print(f"{name:20s} {load_experiment(name).description}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`ekd doctor`: try everything that a run would use."""
    from orchestrator.doctor import diagnose

    experiment = load_experiment(arguments.experiment, arguments.overrides)
    healthy = True
    for finding in diagnose(experiment):
        healthy = healthy and finding.ok
        mark = "ok  " if finding.ok else "FAIL"
        print(f"{mark} {finding.what:10s} {finding.seconds:6.2f} s  {finding.detail}", flush=True)
    return 0 if healthy else 2


def _check_search(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The search that is asked for, and its experiment with the pool of teachers, checked."""
    from orchestrator.tuning.command import requested
    from orchestrator.tuning.plan import check_students

    experiment = load_experiment(arguments.experiment, arguments.overrides, smoke=arguments.smoke)
    request, pool = requested(arguments, experiment)
    checked = _check_experiment(pool, arguments.run_id or request.default_run_id(pool))
    check_students(request, pool, checked.description)
    return request, checked


def _check(arguments: argparse.Namespace) -> Any:
    """Load and check an experiment; whatever is wrong becomes an `ExperimentError`."""
    experiment = load_experiment(arguments.experiment, arguments.overrides, smoke=arguments.smoke)
    return _check_experiment(experiment, arguments.run_id)


def _check_experiment(experiment: Experiment, run_id: str | None) -> Any:
    from orchestrator.preflight import check, one_line
    from orchestrator.storage import StorageError
    from orchestrator.tracking import TrackingError

    try:
        return check(experiment, run_id)
    except ExperimentError:
        raise
    except (ValueError, StorageError, TrackingError) as error:
        raise ExperimentError(one_line(error)) from error


def _remote_capacity(checked: Any) -> Any:
    from orchestrator.launch import LaunchError, start_ray, stop_ray
    from orchestrator.pipeline import local_folder

    try:
        capacity = start_ray(checked.experiment.cluster, local_folder(checked) / "logs" / "ray.log")
    except LaunchError as error:
        raise ExperimentError(str(error)) from error
    stop_ray()
    return capacity


def _open_storage(uri: str, endpoint_url: str | None) -> Storage:
    from orchestrator.storage import open_storage

    try:
        return open_storage(uri, endpoint_url)
    except ValueError as error:
        raise ExperimentError(str(error)) from error


def _run_storage(storage: Storage, run_id: str) -> Storage:
    from orchestrator.manifest import MANIFEST
    from orchestrator.preflight import check_run_id

    run = storage.child(check_run_id(run_id))
    if not run.exists(MANIFEST):
        raise ExperimentError(f"{run.uri()}: there is no such run; `ekd status` lists them")
    return run


def _console() -> Console:
    from rich.console import Console

    from orchestrator.view import stdout_width

    return Console(width=stdout_width(), highlight=False)

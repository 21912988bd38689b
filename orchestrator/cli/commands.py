"""What each `ekd` command does. Functions are named as the commands are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.cli.cluster_commands import clean as clean
from orchestrator.cli.cluster_commands import register as register
from orchestrator.cli.cluster_commands import submit as submit
from orchestrator.cli.evaluate_command import evaluate as evaluate
from orchestrator.cli.registry_commands import export as export
from orchestrator.cli.registry_commands import models as models
from orchestrator.cli.registry_commands import promote as promote
from orchestrator.cli.registry_commands import rollback as rollback
from orchestrator.cli.report_command import report as report
from orchestrator.cli.search_options import check_no_search
from orchestrator.errors import ExperimentError
from orchestrator.experiment.packaged import find_experiment, packaged_experiments, read_experiment
from orchestrator.experiment.schema import load_experiment

if TYPE_CHECKING:
    from orchestrator.experiment.schema import Experiment
    from orchestrator.planning.preflight import Checked
    from orchestrator.storage import Storage
    from orchestrator.tuning.request import SearchRequest


def run(arguments: argparse.Namespace) -> int:
    """`ekd run`: the whole main job."""
    return run_checked(_check(arguments, begins=True))


def run_checked(checked: Checked, request: SearchRequest | None = None) -> int:
    """Run it, with a search if there is a request, and say what came of it; the exit status."""
    from orchestrator.cli.terminal import results_console
    from orchestrator.cli.tune_command import print_search
    from orchestrator.pipeline.lease import LeaseHeld
    from orchestrator.pipeline.pipeline import RunFailed
    from orchestrator.pipeline.pipeline import run as run_pipeline
    from orchestrator.pipeline.summary import summarise, table, verdict
    from orchestrator.planning.preflight import one_line
    from orchestrator.runtime.ray_session import LaunchError
    from orchestrator.storage import StorageError
    from orchestrator.tracking import TrackingError, ui_command

    try:
        manifest = run_pipeline(checked, request)
    except (RunFailed, LaunchError, LeaseHeld, StorageError, TrackingError) as error:
        print(f"ekd: {one_line(error)}", file=sys.stderr)
        if not isinstance(error, LeaseHeld):
            print("ekd: what is done is kept; the same command continues from there", file=sys.stderr)
        return 1
    summary = summarise(manifest.content)
    registered = manifest.outputs("register")
    console = results_console()
    if request is not None:
        print_search(console, checked, manifest, request)
    console.print(table(summary["predictors"]))
    console.print()
    console.print(verdict(summary["predictors"]), soft_wrap=True)
    console.print(f"Registered as {registered['promotion']}", soft_wrap=True)
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
        check_no_search(arguments)
        checked = _check(arguments)
    from orchestrator.cli.terminal import results_console
    from orchestrator.planning.plan import doubts, plan_lines, planned_runs, runs_table, total_line

    planned = planned_runs(checked.experiment, checked.description)
    console = results_console()
    for line in plan_lines(checked):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(runs_table(planned))
    console.print()
    console.print(total_line(planned, "without the search" if search else ""), soft_wrap=True)
    for doubt in doubts(item.run for item in planned):
        console.print(f"WARNING: {doubt}", soft_wrap=True)
    if search is not None:
        from orchestrator.tuning.plan import search_lines

        console.print()
        for line in search_lines(search, checked.experiment, checked.description, checked.capacity):
            console.print(line, soft_wrap=True)
    return 0


def tune(arguments: argparse.Namespace) -> int:
    """`ekd tune`: search, then the best configuration in full."""
    request, checked = _check_search(arguments, begins=True)
    return run_checked(checked, request)


def status(arguments: argparse.Namespace) -> int:
    """`ekd status`: all runs, or one."""
    from orchestrator.cli.terminal import results_console
    from orchestrator.pipeline import status as status_of

    storage = named_storage(arguments.storage, arguments.endpoint_url)
    with storage_errors():
        if arguments.run_id is None:
            results_console().print(status_of.all_runs(storage))
        else:
            text = status_of.one_run(run_storage(storage, arguments.run_id), arguments.run_id)
            results_console().print(text, soft_wrap=True)
    return 0


def experiments(arguments: argparse.Namespace) -> int:
    """`ekd experiments`: what is packaged, search spaces too."""
    import textwrap

    from orchestrator.tuning.space import PACKAGED, load_space, packaged_spaces

    if arguments.name in packaged_spaces():
        print((PACKAGED / f"{arguments.name}.yaml").read_text(encoding="utf-8"), end="")
        return 0
    if arguments.name is not None:
        print(read_experiment(find_experiment(arguments.name)), end="")
        return 0

    def show(name: str, description: str) -> None:
        print(textwrap.fill(f"{name:20s} {description}", width=100, subsequent_indent=" " * 21))

    for name in packaged_experiments():
        show(name, load_experiment(name).description)
    print("\nSearch spaces, for --space:\n")
    for name in packaged_spaces():
        show(name, load_space(name).description)
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`ekd doctor`: try everything that a run would use."""
    from orchestrator.planning.doctor import diagnose

    experiment = load_experiment(arguments.experiment, arguments.overrides)
    healthy = True
    for finding in diagnose(experiment):
        healthy = healthy and finding.ok
        mark = "ok  " if finding.ok else "FAIL"
        print(f"{mark} {finding.what:10s} {finding.seconds:6.2f} s  {finding.detail}", flush=True)
    return 0 if healthy else 2


def _check_search(arguments: argparse.Namespace, *, begins: bool = False) -> tuple[SearchRequest, Checked]:
    """The search that is asked for, and its experiment with the pool of teachers, checked."""
    from orchestrator.cli.tune_command import requested
    from orchestrator.tuning.plan import check_students

    experiment = load_experiment(arguments.experiment, arguments.overrides, smoke=arguments.smoke)
    request, pool = requested(arguments, experiment)
    run_id = request.default_run_id(pool) if arguments.run_id is None else arguments.run_id
    further = partial(check_students, request, pool)
    return request, check_experiment(pool, run_id, smoke=arguments.smoke, begins=begins, further=further)


def _check(arguments: argparse.Namespace, *, begins: bool = False) -> Checked:
    """Load and check an experiment; whatever is wrong becomes an `ExperimentError`."""
    experiment = load_experiment(arguments.experiment, arguments.overrides, smoke=arguments.smoke)
    return check_experiment(experiment, arguments.run_id, smoke=arguments.smoke, begins=begins)


def check_experiment(
    experiment: Experiment,
    run_id: str | None,
    *,
    smoke: bool,
    begins: bool = False,
    further: Callable[[dict[str, Any]], None] | None = None,
) -> Checked:
    """The experiment, checked; whatever is wrong becomes an `ExperimentError`.

    `begins`: it runs at once, so a Ray of its own may start beside the slow checks.
    `further`: one more check, given the data's description.
    """
    from orchestrator.experiment.smoke import one_small_worker
    from orchestrator.planning.capacity import why_never
    from orchestrator.planning.preflight import ask_capacity, check, one_line
    from orchestrator.runtime.ray_session import start_ray_beside
    from orchestrator.storage import StorageError
    from orchestrator.storage.vendor_settings import environment
    from orchestrator.tracking import TrackingError

    capacity = ask_capacity(experiment.cluster)
    reason = why_never(experiment.cluster, capacity) if smoke else None
    if reason:
        cluster = one_small_worker(experiment.cluster)
        experiment = experiment.model_copy(update={"cluster": cluster})
    meanwhile = None
    if begins and capacity.own:
        addresses = environment(experiment.storage.endpoint_url)
        meanwhile = partial(start_ray_beside, experiment.cluster, addresses)
    try:
        checked = check(experiment, run_id, capacity=capacity, meanwhile=meanwhile, further=further)
    except ExperimentError:
        raise
    except (ValueError, OSError, StorageError, TrackingError) as error:
        raise ExperimentError(one_line(error)) from error
    if reason:
        print(f"ekd: {reason.partition(';')[0]}; the smoke run uses one worker on one CPU", file=sys.stderr)
    return checked


def named_storage(uri: str, endpoint_url: str | None) -> Storage:
    """The storage at `uri`; raises `ExperimentError`."""
    from orchestrator.planning.preflight import PATIENCE_S
    from orchestrator.storage import open_storage

    try:
        return open_storage(uri, endpoint_url, patience_s=PATIENCE_S)
    except ValueError as error:
        raise ExperimentError(str(error)) from error


def run_storage(storage: Storage, run_id: str) -> Storage:
    """The storage of a run that exists; raises `ExperimentError`."""
    from orchestrator.pipeline.manifest import MANIFEST
    from orchestrator.planning.preflight import check_run_id

    run = storage.child(check_run_id(run_id))
    if not run.exists(MANIFEST):
        raise ExperimentError(
            f"{run.uri()}: there is no such run; `ekd status` lists those of a place, which --storage names"
        )
    return run


@contextmanager
def storage_errors() -> Iterator[None]:
    """A storage that cannot be read is a wrong input to a command that only reads."""
    from orchestrator.planning.preflight import one_line
    from orchestrator.storage import StorageError

    try:
        yield
    except StorageError as error:
        raise ExperimentError(one_line(error)) from error

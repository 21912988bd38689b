"""`ekd tune` and the part of `ekd plan --space` that is about the search."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.tuning.pool import pool_experiment
from orchestrator.tuning.request import SearchRequest, check_request, default_trials
from orchestrator.tuning.space import check_space, load_space


def requested(arguments: argparse.Namespace, experiment: Experiment) -> tuple[SearchRequest, Experiment]:
    """What the options ask for, checked, and the experiment with the pool of teachers.

    Raises `ExperimentError`.
    """
    space = load_space(arguments.space)
    trials = arguments.trials
    options = {
        "space": space,
        "scheduler": arguments.scheduler,
        "searcher": arguments.searcher,
        "trials": default_trials(arguments.searcher, space) if trials is None else trials,
        "seeds": arguments.seeds,
        "time_budget_s": arguments.time_budget,
        "max_concurrent": arguments.max_concurrent,
    }
    try:
        request = SearchRequest.model_validate(options)
    except ValidationError as error:
        item = error.errors()[0]
        option = str(item["loc"][0]).removesuffix("_s").replace("_", "-")
        raise ExperimentError(f"--{option}: {item['msg']}, not {item['input']!r}") from None
    check_space(space, experiment)
    check_request(request, experiment)
    return request, pool_experiment(experiment, space.domains)


def tune(checked: Any, request: SearchRequest) -> int:
    """Search, train the best in full, register it; the last line on stdout is its URI."""
    from orchestrator.cli.terminal import results_console
    from orchestrator.pipeline.lease import LeaseHeld
    from orchestrator.pipeline.pipeline import RunFailed
    from orchestrator.pipeline.summary import summarise, table, verdict
    from orchestrator.planning.preflight import one_line
    from orchestrator.runtime.ray_session import LaunchError
    from orchestrator.storage import StorageError
    from orchestrator.tracking import TrackingError, ui_command
    from orchestrator.tuning.ledger import Ledger
    from orchestrator.tuning.pipeline import run
    from orchestrator.tuning.table import short_values, trials_table

    try:
        manifest = run(checked, request)
    except (RunFailed, LaunchError, LeaseHeld, StorageError, TrackingError) as error:
        print(f"ekd: {one_line(error)}", file=sys.stderr)
        print("ekd: what is done is kept; the same command continues from there", file=sys.stderr)
        return 1
    console = results_console()
    ledger, found = Ledger(checked.storage), manifest.outputs("search")
    console.print(trials_table(ledger.trials, rows=None))
    console.print()
    if request.searcher == "pareto":
        console.print("Pareto set (validation accuracy against forward-pass equivalents an image):")
        for item in found["pareto"]:
            shown = f"{100 * item['score']:.2f} %  {item['cost']:g}  {item['trial']}: "
            console.print(f"  {shown}{short_values(item['values'])}", soft_wrap=True)
        console.print()
    best = found["best"]
    console.print(
        f"Best on validation: {best['trial']}, {100 * best['score']:.2f} %, {short_values(best['values'])}",
        soft_wrap=True,
    )
    console.print()
    summary = summarise(manifest.content)
    registered = manifest.outputs("register")
    console.print(table(summary["predictors"]))
    console.print()
    console.print(verdict(summary["predictors"]), soft_wrap=True)
    console.print(f"Registered as {registered['promotion']}", soft_wrap=True)
    console.print(f"Look at it: {ui_command(checked.tracking_uri)}", soft_wrap=True)
    console.print(registered["uri"], soft_wrap=True)
    return 0

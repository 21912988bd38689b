"""The parts of `ekd tune` and `ekd plan --space` that are about the search."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.tuning.pool import pool_experiment
from orchestrator.tuning.request import SearchRequest, check_request, default_trials
from orchestrator.tuning.space import check_space, load_space

if TYPE_CHECKING:
    from orchestrator.pipeline.manifest import Manifest
    from orchestrator.planning.preflight import Checked


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


def print_search(console: Any, checked: Checked, manifest: Manifest, request: SearchRequest) -> None:
    """All trials, the Pareto set if cost was searched too, and the best trial."""
    from orchestrator.tuning.table import short_values, trials_table
    from orchestrator.tuning.trial_store import TrialStore

    found = manifest.outputs("search")
    console.print(trials_table(TrialStore(checked.storage).trials, rows=None))
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

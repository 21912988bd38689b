"""The search that the options of `ekd tune` and `ekd plan --space` ask for."""

import argparse
from functools import partial
from typing import Any

from orchestrator.cli.checks import check_experiment, named_experiment, packs, requested_search
from orchestrator.cli.search_options import search_options
from orchestrator.experiment.schema import Experiment
from orchestrator.planning.preflight import Checked
from orchestrator.tuning.plan import check_students
from orchestrator.tuning.request import SearchRequest


def checked_search(arguments: argparse.Namespace) -> tuple[SearchRequest, Checked]:
    """The search, and its experiment with the pool of teachers, checked; raises `ExperimentError`."""
    return check_search(
        named_experiment(arguments),
        arguments.run_id,
        smoke=arguments.smoke,
        pack=packs(arguments),
        **search_options(arguments),
    )


def check_search(
    experiment: Experiment, run_id: str | None, *, smoke: bool, pack: bool = True, **options: Any
) -> tuple[SearchRequest, Checked]:
    """The same of an experiment, by the options of `ekd tune`."""
    request, pool = requested_search(experiment, **options)
    further = partial(check_students, request, pool)
    named = request.default_run_id if run_id is None else run_id
    return request, check_experiment(pool, named, smoke=smoke, further=further, pack=pack)

"""The search that the options of `ekd tune` and `ekd plan --space` ask for."""

import argparse
from functools import partial

from orchestrator.cli.checks import check_experiment, named_experiment, requested_search
from orchestrator.cli.search_options import search_options
from orchestrator.planning.preflight import Checked
from orchestrator.tuning.plan import check_students
from orchestrator.tuning.request import SearchRequest


def checked_search(arguments: argparse.Namespace) -> tuple[SearchRequest, Checked]:
    """The search, and its experiment with the pool of teachers, checked; raises `ExperimentError`."""
    request, pool = requested_search(named_experiment(arguments), **search_options(arguments))
    run_id = request.default_run_id if arguments.run_id is None else arguments.run_id
    further = partial(check_students, request, pool)
    return request, check_experiment(pool, run_id, smoke=arguments.smoke, further=further)

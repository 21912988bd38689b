"""The search that the options of `ekd tune` and `ekd plan --space` ask for."""

import argparse
from functools import partial

from pydantic import ValidationError

from orchestrator.cli.checks import check_experiment, named_experiment
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.planning.preflight import Checked
from orchestrator.tuning.plan import check_students
from orchestrator.tuning.pool import pool_experiment
from orchestrator.tuning.request import SearchRequest, check_request, default_trials
from orchestrator.tuning.space import check_space, load_space


def checked_search(arguments: argparse.Namespace) -> tuple[SearchRequest, Checked]:
    """The search, and its experiment with the pool of teachers, checked; raises `ExperimentError`."""
    request, pool = requested(arguments, named_experiment(arguments))
    run_id = request.default_run_id(pool) if arguments.run_id is None else arguments.run_id
    further = partial(check_students, request, pool)
    return request, check_experiment(pool, run_id, smoke=arguments.smoke, further=further)


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

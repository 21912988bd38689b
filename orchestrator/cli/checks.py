"""An experiment, and a search, loaded and checked before anything is started."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from ekd_train.data.description import DataDescription
from ekd_train.own_code import allow_named
from orchestrator.cli.terminal import waiting
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.redaction import one_line, visible
from orchestrator.experiment.schema import Experiment, load_experiment
from orchestrator.experiment.smoke import make_small, one_small_worker
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.planning.capacity import why_never
from orchestrator.planning.preflight import Checked, ask_capacity, check
from orchestrator.tuning.names import DEFAULT_TRIALS
from orchestrator.tuning.pool import baseline_values, pool_experiment, unlike_pool
from orchestrator.tuning.request import SearchRequest, check_request, most_trials
from orchestrator.tuning.space import check_space, load_space, modules_of


def named_experiment(arguments: argparse.Namespace) -> Experiment:
    """The experiment that `arguments` name, made small with `--smoke`; raises `ExperimentError`."""
    experiment = load_experiment(arguments.experiment, arguments.overrides)
    return make_small(experiment) if arguments.smoke else experiment


def requested_search(
    experiment: Experiment,
    *,
    space: str,
    searcher: str,
    trials: int | None,
    time_budget: float | None,
    **others: Any,
) -> tuple[SearchRequest, Experiment]:
    """A search by the options of `ekd tune`, checked, and the experiment with the pool of teachers.

    Raises `ExperimentError`.
    """
    found = load_space(space)
    code = experiment.code | allow_named(modules_of(found))
    experiment = experiment.model_copy(update={"code": code})
    check_space(found, experiment)
    pool = pool_experiment(experiment, found.domains)
    unlike = unlike_pool(experiment, pool)
    baseline = baseline_values(pool, found.domains, unlike)
    if trials is None:
        trials = most_trials(found, baseline) if searcher == "grid" else DEFAULT_TRIALS
    options = {"space": found, "searcher": searcher, "trials": trials, "time_budget_s": time_budget, **others}
    options["baseline"] = unlike
    try:
        request = SearchRequest.model_validate(options)
    except ValidationError as error:
        item = error.errors()[0]
        option = str(item["loc"][0]).removesuffix("_s").replace("_", "-")
        raise ExperimentError(f"--{option}: {item['msg']}, not {item['input']!r}") from None
    check_request(request, experiment, baseline)
    return request, pool


def checked_experiment(arguments: argparse.Namespace) -> Checked:
    """The experiment that `arguments` name, checked; raises `ExperimentError`."""
    pack = packs(arguments)
    return check_experiment(named_experiment(arguments), arguments.run_id, smoke=arguments.smoke, pack=pack)


def packs(arguments: argparse.Namespace) -> bool:
    """Whether the command is about to run, so that images which would not fit are packed for it."""
    return arguments.command != "plan"


def check_experiment(
    experiment: Experiment,
    run_id: str | Callable[[Experiment], str] | None,
    *,
    smoke: bool,
    further: Callable[[DataDescription], None] | None = None,
    pack: bool = True,
) -> Checked:
    """The experiment, checked; whatever is wrong becomes an `ExperimentError`.

    `run_id`, `further` and `pack` as `orchestrator.planning.preflight.check`.
    """
    capacity = ask_capacity(experiment.cluster)
    reason = why_never(experiment.cluster, capacity) if smoke else None
    if reason:
        cluster = one_small_worker(experiment.cluster)
        experiment = experiment.model_copy(update={"cluster": cluster})
    with nothing_started(), waiting("checking experiment, data, storage and tracking"):
        checked = check(experiment, run_id, capacity=capacity, further=further, pack=pack)
    errors = PlainConsole(stderr=True)
    for notice in (*checked.given.notices, checked.notice):
        if notice:
            errors.say(f"ekd: {visible(notice)}")
    if reason:
        errors.say(f"ekd: {reason.partition(';')[0]}; the smoke run uses one worker on one CPU")
    return checked


@contextmanager
def nothing_started() -> Iterator[None]:
    """What goes wrong before anything is started is an `ExperimentError`: exit status 2."""
    try:
        yield
    except ExperimentError:
        raise
    except (EkdError, ValueError, OSError) as error:
        raise ExperimentError(one_line(error)) from error

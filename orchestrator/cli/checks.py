"""An experiment, loaded and checked before anything is started."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ekd_train.data.description import DataDescription
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.schema import Experiment, load_experiment
from orchestrator.experiment.smoke import make_small, one_small_worker
from orchestrator.planning.capacity import why_never
from orchestrator.planning.preflight import Checked, ask_capacity, check, one_line


def named_experiment(arguments: argparse.Namespace) -> Experiment:
    """The experiment that `arguments` name, made small with `--smoke`; raises `ExperimentError`."""
    experiment = load_experiment(arguments.experiment, arguments.overrides)
    return make_small(experiment) if arguments.smoke else experiment


def checked_experiment(arguments: argparse.Namespace) -> Checked:
    """The experiment that `arguments` name, checked; raises `ExperimentError`."""
    return check_experiment(named_experiment(arguments), arguments.run_id, smoke=arguments.smoke)


def check_experiment(
    experiment: Experiment,
    run_id: str | None,
    *,
    smoke: bool,
    further: Callable[[DataDescription], None] | None = None,
) -> Checked:
    """The experiment, checked; whatever is wrong becomes an `ExperimentError`.

    `further`: one more check, given the data's description.
    """
    capacity = ask_capacity(experiment.cluster)
    reason = why_never(experiment.cluster, capacity) if smoke else None
    if reason:
        cluster = one_small_worker(experiment.cluster)
        experiment = experiment.model_copy(update={"cluster": cluster})
    with nothing_started():
        checked = check(experiment, run_id, capacity=capacity, further=further)
    if reason:
        print(f"ekd: {reason.partition(';')[0]}; the smoke run uses one worker on one CPU", file=sys.stderr)
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

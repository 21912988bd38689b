"""The options of a search on the command line."""

import argparse
from typing import Any, get_args

from orchestrator.errors import ExperimentError
from orchestrator.tuning.names import DEFAULT_TRIALS, SchedulerName, SearcherName

_DEFAULTS = {
    "trials": None,
    "time_budget": None,
    "max_concurrent": None,
    "scheduler": "asha",
    "searcher": "random",
    "seeds": 1,
}


def check_no_search(arguments: argparse.Namespace) -> None:
    """Raise `ExperimentError` if a search is described but `--space` is left out."""
    for name, default in _DEFAULTS.items():
        if getattr(arguments, name) != default:
            raise ExperimentError(f"--{name.replace('_', '-')} is about a search: add --space NAME")


def search_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a search, by name."""
    return {name: getattr(arguments, name) for name in ("space", *_DEFAULTS)}


def search_words(arguments: argparse.Namespace) -> list[str]:
    """The options of a search but `--space`, as they are written; defaults are left out."""
    values = {name: getattr(arguments, name) for name in _DEFAULTS}
    given = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def add_search_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """`--space` and what goes with it; `required`: without a space there is nothing to do."""
    group = parser.add_argument_group("search")
    group.add_argument(
        "--space",
        metavar="NAME",
        required=required,
        help="a packaged space's name (`ekd experiments` lists them), or a YAML file",
    )
    group.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help=f"configurations to try; default: {DEFAULT_TRIALS}, or the whole grid",
    )
    group.add_argument(
        "--time-budget",
        type=float,
        metavar="S",
        help="seconds of searching, all starts together; the final training comes after it",
    )
    group.add_argument(
        "--max-concurrent", type=int, metavar="N", help="trials side by side; default: what the cluster holds"
    )
    group.add_argument(
        "--scheduler",
        choices=get_args(SchedulerName),
        default=_DEFAULTS["scheduler"],
        help="which trials train on; default: %(default)s. asha: the best of each rung; median: those above "
        "the median; none: all",
    )
    group.add_argument(
        "--searcher",
        choices=get_args(SearcherName),
        default=_DEFAULTS["searcher"],
        help="default: %(default)s; pareto: accuracy against the cost of training",
    )
    group.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        default=_DEFAULTS["seeds"],
        help="networks trained of each configuration, compared by their mean",
    )

"""What `ekd run` and `ekd tune` do, from Python: same runs, same storage, same records, same progress.

>>> from orchestrator import load_experiment
>>> experiment = load_experiment("digits", ["student.members=3", "teachers.count=3"])
>>> experiment.student.members
3

`run(experiment)` then trains it (a minute), and a second call finds it done. What a command prints as its one
line is the message of what is raised, an `orchestrator.errors.EkdError`.
"""

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from orchestrator.cli.checks import check_experiment
from orchestrator.cli.searches import check_search
from orchestrator.experiment import schema
from orchestrator.experiment.from_python import check_kind, in_pythons_words, text_of, texts_of, tree_of
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.smoke import make_small
from orchestrator.experiment.yaml_tree import apply_overrides
from orchestrator.pipeline.summary import Summary, summarise
from orchestrator.runtime.address import loopback_alone
from orchestrator.runtime.ray_logging import logging_kept
from orchestrator.tuning.names import SchedulerName, SearcherName

HOW = "load_experiment makes one of a name, a YAML file or dictionaries"


def load_experiment(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Iterable[str] = (), *, smoke: bool = False
) -> Experiment:
    """An experiment, checked against its schema.

    Args:
        source: a packaged experiment's name, a YAML file, or its content as nested dictionaries, which may
            hold paths.
        overrides: `key=value` texts with dotted keys, as `--set` takes them.
        smoke: make it small: every component, a few images, no result.

    Raises `ExperimentError`: a key or value that cannot be.

    >>> load_experiment("digits", ["distillation.temperature=2"]).distillation.temperature
    2.0
    """
    overrides = texts_of(overrides)
    with in_pythons_words():
        if isinstance(source, Mapping):
            tree = tree_of(source)
            apply_overrides(tree, overrides)
            experiment = schema.named_by_its_user(tree)
        else:
            name = text_of(source, "source", "a packaged experiment's name, a YAML file or dictionaries")
            experiment = schema.load_experiment(name, overrides)
    return make_small(experiment) if smoke else experiment


def run(experiment: Experiment, *, run_id: str | None = None) -> Summary:
    """`ekd run`: train the teachers and the student, average, evaluate, register; what came of it.

    An interrupted run is continued, a finished one is only read. Starts Ray on this machine, or connects as
    `cluster.address` says, and leaves it in the end.

    Args:
        experiment: what to do and where.
        run_id: its name in storage; None: made from the settings.

    Raises `EkdError`: `ExperimentError` if nothing was started, else what stopped it; the same call goes on.

    >>> summary = run(load_experiment("digits"))  # doctest: +SKIP
    >>> summary.predictors["averaged"].test["accuracy"], summary.registered_model.uri  # doctest: +SKIP
    """
    check_kind(experiment, Experiment, "experiment", HOW)
    named = None if run_id is None else text_of(run_id, "run_id", "a text or None")
    with logging_kept(), in_pythons_words():
        checked = check_experiment(experiment, named, smoke=False)
        return summarise(pipeline_on(experiment.cluster).run(checked).content)


def tune(
    experiment: Experiment,
    space: str | os.PathLike[str],
    *,
    trials: int | None = None,
    searcher: SearcherName = "random",
    scheduler: SchedulerName = "asha",
    seeds: int = 1,
    time_budget: float | None = None,
    max_concurrent: int | None = None,
    run_id: str | None = None,
) -> Summary:
    """`ekd tune`: search `space`, then do with the best configuration what `run` does.

    Args:
        experiment: what to vary.
        space: a packaged space's name, or a YAML file.
        trials: configurations to try; None: 24, or the whole grid.
        searcher: how they are chosen.
        scheduler: which of them train on.
        seeds: networks trained of each configuration.
        time_budget: seconds of searching; None: no limit.
        max_concurrent: trials side by side; None: what the cluster holds.
        run_id: its name in storage; None: made from the settings.

    Raises `EkdError`: as `run`.

    >>> summary = tune(load_experiment("digits"), "student", trials=8)  # doctest: +SKIP
    """
    check_kind(experiment, Experiment, "experiment", HOW)
    named = None if run_id is None else text_of(run_id, "run_id", "a text or None")
    packaged_or_file = text_of(space, "space", "a packaged space's name or a YAML file")
    with logging_kept(), in_pythons_words():
        request, checked = check_search(
            experiment,
            named,
            smoke=False,
            space=packaged_or_file,
            trials=trials,
            searcher=searcher,
            scheduler=scheduler,
            seeds=seeds,
            time_budget=time_budget,
            max_concurrent=max_concurrent,
        )
        return summarise(pipeline_on(experiment.cluster).run(checked, request).content)


def pipeline_on(cluster: Cluster) -> ModuleType:
    """The pipeline's module, whose Ray, where it starts one, listens on 127.0.0.1 alone.

    Of a program that has imported Ray before, Ray listens where it was told then.
    """
    with loopback_alone(cluster):  # Ray reads where to listen as it is imported
        return import_module("orchestrator.pipeline.pipeline")

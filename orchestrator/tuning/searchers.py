"""Which values the next trial tries: Optuna's random, grid and TPE samplers.

A searcher knows neither Ray nor storage. After a restart the trials that had ended are given to
`observe` again, in order, so its state need not be kept.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler

from ekd_train.data.seeds import derive_seed
from orchestrator.tuning.domains import Choice, Domain, Integer, LogUniform, Uniform
from orchestrator.tuning.names import SearcherName
from orchestrator.tuning.request import POINTS_PER_RANGE, SearchRequest
from orchestrator.tuning.space import Space
from orchestrator.tuning.trial_store import TrialRecord


class Searcher(Protocol):
    """Suggests values for trials, and learns from those that have ended."""

    def suggest(self, number: int) -> dict[str, Any] | None:
        """Values for trial `number`; None when there are no more."""

    def observe(self, record: TrialRecord) -> None:
        """Learn from a trial that has ended."""


class OptunaSearcher:
    """An Optuna study: `random`, `optuna` (TPE), or `pareto` (TPE, accuracy against the cost of training).

    What is suggested depends on seed, number and what was observed, so a restart repeats nothing. Trial 0 is
    `baseline`, if that is given; the study learns from it where it lies in the space.
    """

    def __init__(
        self, space: Space, seed: int, name: SearcherName, baseline: Mapping[str, Any] | None = None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed, self.name, self.baseline = space, seed, name, baseline
        self.pareto = name == "pareto"
        self.distributions = {key: _distribution(domain) for key, domain in space.domains.items()}
        self.study = optuna.create_study(directions=["maximize", "minimize"] if self.pareto else ["maximize"])
        self._running: dict[int, Any] = {}

    def suggest(self, number: int) -> dict[str, Any]:
        """Values for trial `number`; there are always more."""
        self.study.sampler = self._sampler(number)
        if number == 0 and self.baseline is not None:
            if (params := self._params(self.baseline)) is not None:
                self.study.enqueue_trial(params)
                self._running[0] = self.study.ask(self.distributions)
            return dict(self.baseline)
        trial = self._running[number] = self.study.ask(self.distributions)
        return {
            key: domain.choice[trial.params[key]] if isinstance(domain, Choice) else trial.params[key]
            for key, domain in self.space.domains.items()
        }

    def observe(self, record: TrialRecord) -> None:
        """Give the study the result of a trial; one that an earlier start suggested is added to it whole."""
        state, values = optuna.trial.TrialState.COMPLETE, None
        if record.status == "failed" or not record.history:
            state = optuna.trial.TrialState.FAIL
        elif record.status == "pruned" and not self.pareto:
            state = optuna.trial.TrialState.PRUNED
        else:
            values = [record.quality[0], record.full_cost] if self.pareto else [record.quality[0]]
        curve = {int(r["epoch"]): r["score"] for r in record.history} if not self.pareto else {}
        if (running := self._running.pop(record.number, None)) is not None:
            for epoch, score in curve.items():
                running.report(score, epoch)
            self.study.tell(running, values, state=state)
        elif (params := self._params(record.values)) is not None:
            self.study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions=self.distributions,
                    values=values,
                    intermediate_values=curve,
                    state=state,
                )
            )

    def _sampler(self, number: int) -> Any:
        seed = derive_seed(self.seed, "trial", number) % 2**32  # what NumPy's older generators take
        if self.name == "random":
            return RandomSampler(seed=seed)
        # The liar keeps trials that run side by side apart.
        return TPESampler(seed=seed, constant_liar=not self.pareto)

    def _params(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """`values` as the study knows them; None: outside the space, as the experiment itself may be."""
        if not all(domain.has(values[key]) for key, domain in self.space.domains.items()):
            return None
        return {
            key: domain.choice.index(values[key]) if isinstance(domain, Choice) else values[key]
            for key, domain in self.space.domains.items()
        }


class GridSearcher:
    """The points of a grid, each once, in Optuna's shuffled order: early stopping is not misled by theirs.

    Args:
        space: a range becomes its ends and its middle.
        seed: decides the order.
        most: trials at most.
        baseline: trial 0, which is not tried again where it is one of the points.
    """

    def __init__(self, space: Space, seed: int, most: int, baseline: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        points = {key: domain.points(POINTS_PER_RANGE) for key, domain in space.domains.items()}
        # By index, as above: Optuna's own values may not be lists.
        indices = {key: list(range(len(values))) for key, values in points.items()}
        sampler = optuna.samplers.GridSampler(indices, seed=derive_seed(seed, "grid") % 2**32)
        study = optuna.create_study(sampler=sampler)
        distributions: dict[str, BaseDistribution] = {
            key: CategoricalDistribution(choices) for key, choices in indices.items()
        }
        size = math.prod(map(len, points.values()))
        asked = [study.ask(distributions).params for _ in range(min(most, size))]
        found = [{key: points[key][i] for key, i in params.items()} for params in asked]
        self.points = [
            dict(baseline),
            *(point for point in found if any(point[key] != baseline[key] for key in point)),
        ]

    def suggest(self, number: int) -> dict[str, Any] | None:
        """Point `number`; None after the last one."""
        return self.points[number] if number < len(self.points) else None

    def observe(self, record: TrialRecord) -> None:
        """Nothing is learned."""


def build_searcher(request: SearchRequest, seed: int, baseline: Mapping[str, Any]) -> Searcher:
    """The searcher that the request names; trial 0 is `baseline`."""
    if request.searcher == "grid":
        return GridSearcher(request.space, seed, request.trials, baseline)
    return OptunaSearcher(request.space, seed, request.searcher, baseline)


def random_points(space: Space, count: int) -> list[dict[str, Any]]:
    """`count` random points of the space, the same at every call."""
    searcher = OptunaSearcher(space, 0, "random")
    return [searcher.suggest(number) for number in range(count)]


def _distribution(domain: Domain) -> Any:
    match domain:
        case Choice():  # by index: Optuna's own choices may not be lists
            return CategoricalDistribution(range(len(domain.choice)))
        case Uniform():
            return FloatDistribution(*domain.uniform)
        case LogUniform():
            return FloatDistribution(*domain.log_uniform, log=True)
        case Integer():
            return IntDistribution(*domain.integer)

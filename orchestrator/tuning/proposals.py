"""Which values the next trial tries: random, grid, and Optuna's TPE.

A proposer knows neither Ray nor storage. What it needs of earlier starts it is told again
through `observe`, in order; so its state need not be kept.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import numpy as np

from ekd_train.data.seeds import derive_seed
from orchestrator.tuning.domains import Choice, Integer, LogUniform, Uniform
from orchestrator.tuning.ledger import TrialRecord
from orchestrator.tuning.request import POINTS_PER_RANGE, SearchRequest
from orchestrator.tuning.space import Space


class Proposer(Protocol):
    """Proposes values for trials, and hears what became of them."""

    def propose(self, number: int) -> dict[str, Any] | None:
        """Values for trial `number`; None when there are no more."""

    def observe(self, record: TrialRecord) -> None:
        """A trial has ended."""


class RandomProposer:
    """Draws every trial from a generator of its own, so that no state exists."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed

    def propose(self, number: int) -> dict[str, Any]:
        """See `Proposer`."""
        generator = np.random.default_rng(derive_seed(self.seed, "trial", number))
        return {key: domain.draw(generator) for key, domain in self.space.domains.items()}

    def observe(self, record: TrialRecord) -> None:
        """Nothing is learned."""


class GridProposer:
    """Every point of a grid once, in an order that early stopping is not misled by."""

    def __init__(self, space: Space, seed: int) -> None:
        points = [domain.points(POINTS_PER_RANGE) for domain in space.domains.values()]
        self.points = [dict(zip(space.domains, values, strict=True)) for values in itertools.product(*points)]
        np.random.default_rng(derive_seed(seed, "grid")).shuffle(self.points)

    def propose(self, number: int) -> dict[str, Any] | None:
        """See `Proposer`."""
        return self.points[number] if number < len(self.points) else None

    def observe(self, record: TrialRecord) -> None:
        """Nothing is learned."""


class OptunaProposer:
    """Optuna's tree-structured Parzen estimator; with `pareto` also against the cost of training."""

    def __init__(self, space: Space, seed: int, pareto: bool = False) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed, self.pareto = space, seed, pareto
        self.distributions = {key: _distribution(domain) for key, domain in space.domains.items()}
        self.study = optuna.create_study(directions=["maximize", "minimize"] if pareto else ["maximize"])
        self._asked: dict[int, Any] = {}

    def propose(self, number: int) -> dict[str, Any]:
        """See `Proposer`. Depends on seed, number and what was observed, so no start repeats another's."""
        self.study.sampler = self._sampler(number)
        trial = self.study.ask(self.distributions)
        self._asked[number] = trial
        return {
            key: domain.choice[trial.params[key]] if isinstance(domain, Choice) else trial.params[key]
            for key, domain in self.space.domains.items()
        }

    def observe(self, record: TrialRecord) -> None:
        """Tell the study; a trial that an earlier start proposed is added to it whole."""
        import optuna

        state, values = optuna.trial.TrialState.COMPLETE, None
        if record.status == "failed" or not record.history:
            state = optuna.trial.TrialState.FAIL
        elif record.status == "pruned" and not self.pareto:
            state = optuna.trial.TrialState.PRUNED
        else:
            values = [record.quality[0], record.cost] if self.pareto else [record.quality[0]]
        curve = {int(r["epoch"]): r["score"] for r in record.history} if not self.pareto else {}
        if (asked := self._asked.pop(record.number, None)) is not None:
            for epoch, score in curve.items():
                asked.report(score, epoch)
            self.study.tell(asked, values, state=state)
            return
        self.study.add_trial(
            optuna.trial.create_trial(
                params=self._params(record.values),
                distributions=self.distributions,
                values=values,
                intermediate_values=curve,
                state=state,
            )
        )

    def _sampler(self, number: int) -> Any:
        from optuna.samplers import TPESampler

        seed = derive_seed(self.seed, "trial", number) % 2**32  # what NumPy's older generators take
        # The liar keeps trials that run side by side apart.
        return TPESampler(seed=seed, constant_liar=not self.pareto)

    def _params(self, values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: domain.choice.index(values[key]) if isinstance(domain, Choice) else values[key]
            for key, domain in self.space.domains.items()
        }


def build_proposer(request: SearchRequest, seed: int) -> Proposer:
    """The proposer that the request names."""
    match request.searcher:
        case "random":
            return RandomProposer(request.space, seed)
        case "grid":
            return GridProposer(request.space, seed)
        case "optuna" | "pareto":
            return OptunaProposer(request.space, seed, pareto=request.searcher == "pareto")


def _distribution(domain: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match domain:
        case Choice():  # by index: Optuna's own choices may not be lists
            return CategoricalDistribution(range(len(domain.choice)))
        case Uniform():
            return FloatDistribution(*domain.uniform)
        case LogUniform():
            return FloatDistribution(*domain.log_uniform, log=True)
        case Integer():
            return IntDistribution(*domain.integer)

"""Proposers: random needs no memory, a grid repeats nothing, TPE learns and learns again."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.tuning.domains import Choice, LogUniform, Uniform
from orchestrator.tuning.ledger import TrialRecord
from orchestrator.tuning.proposals import GridProposer, OptunaProposer, RandomProposer
from orchestrator.tuning.space import Space

SPACE = Space(
    name="test",
    description="a test",
    domains={
        "temperature": LogUniform(log_uniform=(0.1, 10.0), reason="a test"),
        "kind": Choice(choice=("a", "b", None), reason="a test"),
        "strength": Uniform(uniform=(0.0, 1.0), reason="a test"),
    },
)


def ended(number: int, values: dict[str, Any], score: float, **changes: Any) -> TrialRecord:
    history = [{"epoch": 1.0, "score": score, "score_nll": 0.0}]
    return TrialRecord(number, values, **({"status": "completed", "history": history, "cost": 1.0} | changes))


def goodness(values: dict[str, Any]) -> float:
    return 1 - 0.2 * math.log(values["temperature"]) ** 2 - (values["kind"] != "b")


def test_random_trials_depend_on_seed_and_number_alone() -> None:
    one, again, other = RandomProposer(SPACE, 0), RandomProposer(SPACE, 0), RandomProposer(SPACE, 1)
    third = one.propose(3)
    assert again.propose(3) == third != other.propose(3)
    assert len({str(one.propose(n)) for n in range(50)}) == 50


def test_a_grid_tries_every_point_once() -> None:
    grid = GridProposer(SPACE, 0)
    points = [grid.propose(n) for n in range(27)]
    assert None not in points
    assert len({str(point) for point in points}) == 27
    assert grid.propose(27) is None
    assert GridProposer(SPACE, 0).propose(5) == points[5]


def test_tpe_finds_what_is_good_sooner_than_chance() -> None:
    proposer = OptunaProposer(SPACE, 0)
    scores = []
    for number in range(40):
        values = proposer.propose(number)
        scores.append(goodness(values))
        proposer.observe(ended(number, values, scores[-1]))
    assert sum(scores[20:]) / 20 > sum(scores[:10]) / 10 + 0.3


def test_tpe_told_the_trials_of_an_earlier_start_goes_on_from_them() -> None:
    records = []
    chance = RandomProposer(SPACE, 5)
    for number in range(30):
        values = chance.propose(number)
        records.append(ended(number, values, goodness(values)))
    proposer = OptunaProposer(SPACE, 1)
    for record in records:
        proposer.observe(record)
    proposed = [goodness(proposer.propose(30 + n)) for n in range(10)]
    assert sum(proposed) / 10 > sum(r.quality[0] for r in records) / 30 + 0.3


@pytest.mark.parametrize("pareto", [False, True])
@pytest.mark.parametrize("before", [4, 14], ids=["at random", "estimated"])
def test_tpe_of_another_start_proposes_what_the_first_one_would_have(before: int, pareto: bool) -> None:
    first, records = OptunaProposer(SPACE, 0, pareto), []
    for number in range(18):
        values = first.propose(number)
        records.append(ended(number, values, goodness(values)))
        first.observe(records[-1])
    again = OptunaProposer(SPACE, 0, pareto)
    for record in records[:before]:
        again.observe(record)
    for record in records[before:]:
        assert again.propose(record.number) == record.values
        again.observe(record)
    assert len({str(record.values) for record in records}) == 18


@pytest.mark.parametrize("asked", [True, False], ids=["this start's", "an earlier start's"])
def test_tpe_takes_pruned_and_failed_trials(asked: bool) -> None:
    import optuna

    proposer = OptunaProposer(SPACE, 0)
    for number, status in enumerate(("pruned", "failed", "completed")):
        values = proposer.propose(number) if asked else RandomProposer(SPACE, 0).propose(number)
        proposer.observe(ended(number, values, 0.5, status=status))
    states = [trial.state for trial in proposer.study.trials]
    wanted = optuna.trial.TrialState
    assert states == [wanted.PRUNED, wanted.FAIL, wanted.COMPLETE]


def test_pareto_search_weighs_accuracy_against_cost() -> None:
    proposer = OptunaProposer(SPACE, 0, pareto=True)
    for number, cost in enumerate((5.0, 1.0)):
        values = proposer.propose(number)
        proposer.observe(ended(number, values, 0.5 + cost / 10, cost=cost))
    assert {tuple(trial.values) for trial in proposer.study.best_trials} == {(1.0, 5.0), (0.6, 1.0)}

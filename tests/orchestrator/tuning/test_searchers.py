"""Searchers: random needs no memory, a grid repeats nothing, TPE learns and learns again."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.tuning.domains import Choice, Domain, Integer, LogUniform, Uniform
from orchestrator.tuning.names import SearcherName
from orchestrator.tuning.searchers import GridSearcher, OptunaSearcher, random_points
from orchestrator.tuning.space import Space
from orchestrator.tuning.trial_store import TrialRecord

SPACE = Space(
    name="test",
    description="a test",
    domains={
        "temperature": LogUniform(log_uniform=(0.1, 10.0), reason="a test"),
        "kind": Choice(choice=("a", "b", None), reason="a test"),
        "strength": Uniform(uniform=(0.0, 1.0), reason="a test"),
    },
)
OUTSIDE = {"temperature": 20.0, "kind": "c", "strength": 0.5}
"""Values that the space does not have, as an experiment's own may be."""


def ended(number: int, values: dict[str, Any], score: float, **changes: Any) -> TrialRecord:
    history = [{"epoch": 1.0, "score": score, "score_nll": 0.0}]
    return TrialRecord(
        number=number, values=values, **({"status": "completed", "history": history, "cost": 1.0} | changes)
    )


def goodness(values: dict[str, Any]) -> float:
    return 1 - 0.2 * math.log(values["temperature"]) ** 2 - (values["kind"] != "b")


def random(seed: int, space: Space = SPACE) -> OptunaSearcher:
    return OptunaSearcher(space, seed, "random")


def tpe(seed: int, name: SearcherName = "optuna") -> OptunaSearcher:
    return OptunaSearcher(SPACE, seed, name)


def test_random_trials_depend_on_seed_and_number_alone() -> None:
    one, again, other = random(0), random(0), random(1)
    third = one.suggest(3)
    assert again.suggest(3) == third != other.suggest(3)
    assert len({str(one.suggest(n)) for n in range(50)}) == 50


def test_random_values_lie_in_their_domains_and_fill_them() -> None:
    domains: dict[str, Domain] = {
        "choice": Choice(choice=("a", None, 3), reason="a test"),
        "uniform": Uniform(uniform=(-1.0, 2.0), reason="a test"),
        "log": LogUniform(log_uniform=(0.01, 100.0), reason="a test"),
        "integer": Integer(integer=(2, 5), reason="a test"),
    }
    points = random_points(Space(name="test", description="a test", domains=domains), 400)
    assert points[:5] == random_points(Space(name="test", description="a test", domains=domains), 5)
    assert {point["choice"] for point in points} == {"a", None, 3}
    assert {point["integer"] for point in points} == {2, 3, 4, 5}
    assert all(-1 <= point["uniform"] <= 2 and 0.01 <= point["log"] <= 100 for point in points)
    below = sum(point["log"] < 1 for point in points)  # half of a logarithmic domain
    assert abs(below - 200) < 5 * math.sqrt(400) / 2  # five standard deviations


def test_a_grid_tries_every_point_once() -> None:
    grid = GridSearcher(SPACE, 0, 99, OUTSIDE)
    assert grid.suggest(0) == OUTSIDE
    points = [grid.suggest(n) for n in range(1, 28)]
    assert None not in points
    assert len({str(point) for point in points}) == 27
    assert grid.suggest(28) is None
    assert GridSearcher(SPACE, 0, 6, OUTSIDE).suggest(5) == points[4]
    assert {round(point["temperature"], 9) for point in points if point} == {0.1, 1.0, 10.0}


def test_a_grid_is_not_tried_in_the_order_of_its_keys() -> None:
    points = [GridSearcher(SPACE, 0, 28, OUTSIDE).suggest(n) for n in range(1, 10)]
    assert len({point["temperature"] for point in points if point}) > 1
    assert points != [GridSearcher(SPACE, 1, 28, OUTSIDE).suggest(n) for n in range(1, 10)]


def test_tpe_finds_what_is_good_sooner_than_chance() -> None:
    searcher = tpe(0)
    scores = []
    for number in range(40):
        values = searcher.suggest(number)
        scores.append(goodness(values))
        searcher.observe(ended(number, values, scores[-1]))
    assert sum(scores[20:]) / 20 > sum(scores[:10]) / 10 + 0.3


def test_tpe_told_the_trials_of_an_earlier_start_goes_on_from_them() -> None:
    records = []
    chance = random(5)
    for number in range(30):
        values = chance.suggest(number)
        records.append(ended(number, values, goodness(values)))
    searcher = tpe(1)
    for record in records:
        searcher.observe(record)
    suggested = [goodness(searcher.suggest(30 + n)) for n in range(10)]
    assert sum(suggested) / 10 > sum(r.quality[0] for r in records) / 30 + 0.3


@pytest.mark.parametrize("name", ["random", "optuna", "pareto"])
@pytest.mark.parametrize("before", [4, 14], ids=["at random", "estimated"])
def test_a_searcher_of_another_start_suggests_what_the_first_one_would_have(
    before: int, name: SearcherName
) -> None:
    first, records = tpe(0, name), []
    for number in range(18):
        values = first.suggest(number)
        records.append(ended(number, values, goodness(values)))
        first.observe(records[-1])
    again = tpe(0, name)
    for record in records[:before]:
        again.observe(record)
    for record in records[before:]:
        assert again.suggest(record.number) == record.values
        again.observe(record)
    assert len({str(record.values) for record in records}) == 18


@pytest.mark.parametrize("asked", [True, False], ids=["this start's", "an earlier start's"])
def test_tpe_takes_pruned_and_failed_trials(asked: bool) -> None:
    import optuna

    searcher = tpe(0)
    for number, status in enumerate(("pruned", "failed", "completed")):
        values = searcher.suggest(number) if asked else random(0).suggest(number)
        searcher.observe(ended(number, values, 0.5, status=status))
    states = [trial.state for trial in searcher.study.trials]
    wanted = optuna.trial.TrialState
    assert states == [wanted.PRUNED, wanted.FAIL, wanted.COMPLETE]


def test_pareto_search_weighs_accuracy_against_cost() -> None:
    searcher = tpe(0, "pareto")
    for number, cost in enumerate((5.0, 1.0)):
        values = searcher.suggest(number)
        searcher.observe(ended(number, values, 0.5 + cost / 10, cost=cost))
    assert {tuple(trial.values) for trial in searcher.study.best_trials} == {(1.0, 5.0), (0.6, 1.0)}


@pytest.mark.parametrize("name", ["random", "optuna", "pareto"])
def test_the_first_trial_is_the_experiment_as_it_stands_and_is_learned_from(name: SearcherName) -> None:
    inside = {"temperature": 1.0, "kind": None, "strength": 0.5}
    for baseline, known in ((inside, 1), (OUTSIDE, 0)):
        searcher = OptunaSearcher(SPACE, 0, name, baseline)
        assert searcher.suggest(0) == baseline
        searcher.observe(ended(0, baseline, 0.5))
        assert len(searcher.study.get_trials()) == known
        later = OptunaSearcher(SPACE, 0, name, baseline)  # another start, to which trial 0 is history
        later.observe(ended(0, baseline, 0.5))
        assert len(later.study.get_trials()) == known
        assert later.suggest(1) == searcher.suggest(1)

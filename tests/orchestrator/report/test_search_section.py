"""The section on the search: of `ekd tune` only, with its winner, its trials and what mattered."""

import re
from dataclasses import replace

import pytest

from orchestrator.report import render
from orchestrator.report.search import Search, search_section
from orchestrator.tuning.ledger import TrialRecord
from orchestrator.tuning.space import load_space

SCORES = (0.91, 0.95, 0.93, 0.90, 0.92)


def made_trial(number, score, status="completed", epochs=3, error=None):
    history = [
        {"epoch": e, "averaged/accuracy": score - 0.1 / e, "score": score - 0.1 / e, "score_nll": 1 / e}
        for e in range(1, epochs + 1)
    ]
    values = {
        "distillation.temperature": 1.0 + number,
        "student.members": 2 + number % 3,
        "perturbation.strength": 0.5 * number,
    }
    return TrialRecord(number, values, status=status, history=history, error=error)


@pytest.fixture(scope="module")
def search():
    trials = [made_trial(i, score, "pruned" if i == 3 else "completed") for i, score in enumerate(SCORES)]
    trials.append(made_trial(5, 0, "failed", epochs=0, error="the loss is nan <at step 3>"))
    ranked = sorted(trials, key=lambda record: record.quality, reverse=True)
    best = ranked[0]
    item = {"trial": best.name, "values": best.values, "score": best.quality[0], "cost": 120.0}
    outputs = {
        "best": item,
        "pareto": [item],
        "trials": {"completed": 4, "failed": 1, "pruned": 1},
        "seconds": 75.0,
    }
    request = {
        "space": load_space("student").model_dump(mode="json"),
        "searcher": "random",
        "scheduler": "asha",
        "seeds": 1,
    }
    return Search(request, ranked, outputs)


@pytest.mark.slow
def test_a_run_that_searched_nothing_has_neither_section_nor_link(evidence):
    page = render(evidence)
    assert 'id="search"' not in page
    assert "#search" not in page


def test_the_sentence_names_the_winner_its_settings_and_what_was_not_used(search):
    headline = search_section(search).headline
    assert "Of 6 trials (4 completed, 1 failed, 1 pruned) trial-0001 was best" in headline
    assert "validation accuracy 91.67 % with distillation.temperature=2, student.members=3" in headline
    assert "the test images were not used" in headline


def test_every_trial_is_in_the_table_the_winner_first_and_a_failure_with_its_reason(evidence, search):
    page = render(replace(evidence, search=search))
    table = page.partition("Best first, by validation accuracy")[2].partition("</table>")[0]
    assert re.findall(r"trial-\d+", table)[0] == "trial-0001"
    assert len(re.findall(r"trial-\d+", table)) == 6
    assert "the loss is nan &lt;at step 3&gt;" in table
    assert table.count("<td>–</td>") == 2  # no accuracy, no NLL: not zeros


def test_the_figures_show_the_trials_that_reported(search):
    section = search_section(search)
    assert "stopped early" in section.trials_chart
    assert "Stopped before their end: 1 of 6" in section.curves_chart
    assert sum(section.importance.values()) == pytest.approx(1)
    assert set(section.keys) == set(section.importance)


@pytest.mark.slow
def test_the_pareto_set_is_shown_where_cost_was_searched_too(evidence, search):
    assert not search_section(search).pareto
    asked = replace(search, request={**search.request, "searcher": "pareto"})
    assert "Pareto set: no other trial" in render(replace(evidence, search=asked))

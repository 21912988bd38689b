"""The section on the search: of `ekd tune` only, with its winner, its trials and what mattered."""

import re
from dataclasses import replace

import pytest

from orchestrator.report import render
from orchestrator.report.search import importance, search_section
from orchestrator.tuning.trial_store import TrialRecord


@pytest.mark.slow
def test_a_run_that_searched_nothing_has_neither_section_nor_link(evidence):
    page = render(evidence)
    assert 'id="search"' not in page
    assert "#search" not in page


def test_the_sentence_names_the_winner_its_settings_and_what_was_not_used(search):
    headline = search_section(search).headline
    assert "Of 6 trials (4 finished, 1 stopped, 1 failed) trial-0001 was best" in headline
    assert "validation accuracy 91.67 % with distillation.temperature=2, student.members=3" in headline
    assert "the test images were not used" in headline


def test_every_trial_is_in_the_table_the_winner_first_and_a_failure_with_its_reason(evidence, search):
    page = render(replace(evidence, search=search))
    table = page.partition("Best first, by validation accuracy")[2].partition("</table>")[0]
    assert re.findall(r"trial-\d+", table)[0] == "trial-0001"
    assert len(re.findall(r"trial-\d+", table)) == 6
    assert "the loss is nan &lt;at step 3&gt;" in table
    assert table.count("<td>–</td>") == 2  # no accuracy, no NLL: not zeros


def test_a_trial_that_took_a_network_says_whose_and_has_no_time(search):
    taken = search.winner.model_copy(update={"seconds": 0.0, "reused_from": ("digits-1",)})
    section = search_section(replace(search, trials=[taken, *search.trials[1:]]))
    first, second = ([row[key] for key in ("note", "time", "cost")] for row in section.rows[:2])
    assert first == ["reused, trained by digits-1", "0 s", "0"]
    assert second == ["", "1 min 15 s", "4.4 k"]


def test_the_figures_show_the_trials_that_reported(search):
    section = search_section(search)
    assert "stopped early" in section.trials_chart
    assert "Stopped before their end: 1 of 6" in section.curves_chart


@pytest.mark.slow
def test_the_pareto_set_is_shown_where_cost_was_searched_too(evidence, search):
    assert not search_section(search).pareto
    asked = replace(search, request=search.request.model_copy(update={"searcher": "pareto"}))
    assert "Pareto set: no other trial" in render(replace(evidence, search=asked))


def test_what_mattered_is_said_of_ten_trials_of_the_same_budget_or_not_at_all(search):
    space, keys = search.space, search.space.domains

    def trial(number, **changes):
        values = dict(zip(keys, (1 + number, 2 + number % 3, 0.4 * number), strict=True))
        history = ({"epoch": 3.0, "score": 0.5 + 0.04 * number, "score_nll": 1.0},)
        fields = {"values": values, "history": history, "status": "completed"} | changes
        return TrialRecord(number=number, **fields)

    trials = [trial(number) for number in range(10)]
    found = importance(space, trials)
    assert sum(found.values()) == pytest.approx(1)
    assert set(found) == set(keys)
    assert importance(space, trials[:9]) == {}
    assert importance(space, [*trials[:9], trial(9, status="pruned")]) == {}
    outside = dict(zip(keys, (4.0, 9, 1.0), strict=True))  # as the experiment's own values may be
    assert importance(space, [*trials[:9], trial(9, values=outside)]) == {}

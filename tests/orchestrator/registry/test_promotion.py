import math

import pytest

from orchestrator.registry.promotion import Validation, decide_promotion, doubt

GOOD = Validation(0.90, 0.30)


@pytest.mark.parametrize(
    ("candidate", "champion", "alias"),
    [
        (Validation(0.91, 0.30), GOOD, "champion"),
        (Validation(0.91, 9.99), GOOD, "champion"),  # accuracy decides
        (Validation(0.90, 0.29), GOOD, "champion"),  # NLL breaks the tie
        (Validation(0.90, 0.30), GOOD, "challenger"),  # equal is not better
        (Validation(0.90, 0.31), GOOD, "challenger"),
        (Validation(0.89, 0.01), GOOD, "challenger"),
        (Validation(math.nan, 0.1), GOOD, "challenger"),
        (Validation(0.99, math.nan), GOOD, "challenger"),
        (Validation(0.99, math.inf), GOOD, "challenger"),
        (None, GOOD, "challenger"),
        (GOOD, None, "challenger"),  # the champion has no measurements
        (GOOD, Validation(math.nan, 0.3), "challenger"),
    ],
)
def test_the_champion_moves_only_to_a_strictly_better_version(candidate, champion, alias):
    assert decide_promotion(candidate, champion, vacant=False).alias == alias


@pytest.mark.parametrize(
    ("candidate", "alias"),
    [(GOOD, "champion"), (Validation(math.nan, 0.3), "challenger"), (None, "challenger")],
)
def test_the_first_version_is_champion_if_it_was_measured(candidate, alias):
    assert decide_promotion(candidate, None, vacant=True).alias == alias


def test_the_reason_gives_both_measurements():
    reason = decide_promotion(Validation(0.91, 0.25), GOOD, vacant=False).reason
    assert "0.9100" in reason
    assert "0.9000" in reason
    assert "0.2500" in reason


@pytest.mark.parametrize("metrics", [{}, {"accuracy": 0.9}])
def test_without_accuracy_and_nll_there_is_no_measurement(metrics):
    assert Validation.of(metrics) is None


def test_measurements_are_read_from_metrics_among_others():
    found = Validation.of({"accuracy": 0.9, "nll": 0.3, "balanced_accuracy": 0.7, "ece": 0.01})
    assert found == Validation(0.9, 0.3, 0.7)


@pytest.mark.parametrize(
    ("by", "alias"), [("accuracy", "champion"), ("nll", "challenger"), ("balanced_accuracy", "challenger")]
)
def test_what_counts_as_better_is_chosen(by, alias):
    candidate, champion = Validation(0.91, 0.31, 0.80), Validation(0.90, 0.30, 0.81)
    assert decide_promotion(candidate, champion, vacant=False, by=by).alias == alias
    assert decide_promotion(champion, candidate, vacant=False, by=by).alias != alias


def test_a_champion_without_balanced_accuracy_is_not_replaced_by_it():
    decided = decide_promotion(Validation(0.91, 0.3, 0.9), GOOD, vacant=False, by="balanced_accuracy")
    assert decided.alias == "challenger"
    assert "no balanced validation accuracy" in decided.reason


CONTROL = Validation(0.80, 0.50, 0.80)


@pytest.mark.parametrize(
    ("student", "by", "why"),
    [
        (Validation(0.81, 0.60, 0.81), "accuracy", None),
        (Validation(0.80, 0.50, 0.80), "accuracy", None),  # equal is not worse
        (Validation(0.79, 0.10, 0.79), "accuracy", "worse than its own control"),
        (Validation(0.79, 0.10, 0.79), "nll", None),
        (Validation(0.81, 0.51, 0.81), "nll", "worse than its own control"),
        (Validation(0.90, 0.10, 0.79), "balanced_accuracy", "worse than its own control"),
        (Validation(0.90, 0.10, 0.12), "accuracy", "at chance level"),  # the most frequent class, always
        (Validation(0.13, 2.30, 0.12), "nll", "at chance level"),  # within 2 x 1.3 points of a tenth
    ],
)
def test_a_student_is_doubted_at_chance_level_and_below_its_control(student, by, why):
    said = doubt(student, CONTROL, by=by, classes=10, images=500)
    assert said == why or why in said
    decided = decide_promotion(student, None, vacant=True, by=by, doubted=said)
    assert (decided.alias == "champion") == (why is None)
    assert why is None or why in decided.reason

import math

import pytest

from orchestrator.registry.promotion import Validation, decide_promotion

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


@pytest.mark.parametrize("tags", [{}, {"accuracy": "0.9"}, {"accuracy": "high", "nll": "0.3"}])
def test_unusable_tags_are_no_measurement(tags):
    assert Validation.of(tags) is None


def test_measurements_are_read_from_tags_among_others():
    assert Validation.of({"accuracy": "0.9", "nll": "0.3", "ece": "0.01"}) == GOOD

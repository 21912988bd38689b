"""How ratios that were measured side by side are summed up."""

import random

import pytest

from benchmarks.timing import median_with_interval


@pytest.mark.parametrize(
    ("count", "lower", "upper"),
    [(6, 1, 6), (9, 2, 8), (10, 2, 9), (20, 6, 15), (25, 8, 18), (40, 14, 27), (50, 18, 33)],
)
def test_the_interval_of_a_median_ends_where_the_tables_say(count, lower, upper):
    # Ranks for 95 %: tables of the sign test's interval, as in textbooks of nonparametric statistics.
    values = list(range(1, count + 1))
    random.Random(0).shuffle(values)
    assert median_with_interval(values)[1:] == (lower, upper)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        _, low, high = median_with_interval([draw.expovariate(1) for _ in range(21)])
        held += low <= 0.6931 <= high
    assert 0.95 <= held / 2000 <= 0.99


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match="5 values are too few"):
        median_with_interval([1, 2, 3, 4, 5])

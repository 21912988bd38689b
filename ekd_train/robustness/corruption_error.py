"""Corruption errors, relative to a baseline that sees the same corrupted images."""

from collections.abc import Mapping, Sequence


def corruption_errors(
    errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """The corruption error of each kind: `CE = Σ_severity error / Σ_severity error of the baseline`.

    Hendrycks and Dietterich (2019), whose baseline is AlexNet; below 1 is more robust than the baseline.
    A kind of which the baseline gets everything right has no corruption error and is left out.

    Args:
        errors: by kind, the fraction of wrong images at each severity.
        baseline: the same of the baseline, same kinds and severities.

    >>> corruption_errors({"fog": [0.1, 0.2]}, {"fog": [0.2, 0.4]})
    {'fog': 0.5}
    """
    return {
        kind: sum(values) / total for kind, values in errors.items() if (total := sum(baseline[kind])) > 0
    }


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]]
) -> float | None:
    """The mean of `corruption_errors` over all kinds; None if one of them has none."""
    each = corruption_errors(errors, baseline)
    return sum(each.values()) / len(each) if len(each) == len(errors) else None

"""Robustness of predictors: under corruption, on OOD data, and at less than full coverage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.evaluation.bootstrap import BootstrapOfMeans, Paired
from ekd_train.evaluation.evaluate import predict
from ekd_train.metrics import all_metrics, per_image
from ekd_train.robustness.corruptions import corrupt
from ekd_train.robustness.ood_detection import MERITS, SCORES, BootstrapOfDetection, unsureness
from ekd_train.robustness.risk_coverage import aurc, excess_aurc, risk_coverage
from ekd_train.robustness.settings import RobustnessSettings

BASELINE = "control"
"""The predictor that corruption errors are relative to."""
IMAGES_AT_ONCE = 2000
"""Corrupted images in memory at a time; a multiple of `corruptions.IMAGES_AT_ONCE`."""
CURVE_POINTS = 100
"""Points that a stored risk-coverage curve has at most."""

UNCERTAIN = ("accuracy", "nll")
"""What has intervals under corruption: means over the images."""

Progress = Callable[[int, int], None]
"""Called with how many images of how many are predicted."""


def predict_all(predictors: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Probabilities `(s, n, c)` of every predictor for uint8 `images`; teachers are the ensemble's rows."""
    evaluated = {
        name: predict(p, images) for name, p in predictors.items() if not name.startswith("teacher/")
    }
    teachers = {
        name: evaluated["ensemble"][int(name.partition("/")[2])][None]
        for name in predictors
        if name.startswith("teacher/")
    }
    return {name: (evaluated | teachers)[name] for name in predictors}


def under_corruption(
    predictors: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    temperatures: Mapping[str, float],
    settings: RobustnessSettings,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Metrics of every predictor on corrupted test images.

    Args:
        predictors: by name, `control` among them; on the device of the images.
        images: uint8 `(n, c, h, w)`.
        labels: `(n,)`.
        temperatures: of every predictor, fitted on clean validation images.
        settings: which corruptions, severities and seed.
        progress: called after every few images.

    Returns:
        For each predictor `kinds` (kind -> severity -> metrics), `severities` (severity -> their means
        over the kinds), `mean` (over all), `ce` (kind -> corruption error) and `mce`, see
        `corruption_errors` for when these are absent; and of the mean accuracy and NLL the 95 % `intervals`
        (metric -> [low, high]) and, but for the control, `minus_control` (metric -> value, low and high).
        Images are resampled, each with all its corruptions.
    """
    cases = [(kind, severity) for kind in settings.corruptions for severity in settings.severities]
    kinds: dict[str, dict[str, dict[str, dict[str, float]]]] = {name: {} for name in predictors}
    each_image = {name: torch.zeros(len(UNCERTAIN), len(labels), dtype=torch.float64) for name in predictors}
    for number, (kind, severity) in enumerate(cases):
        parts: dict[str, list[Tensor]] = {name: [] for name in predictors}
        for start in range(0, len(images), IMAGES_AT_ONCE):
            clean = images[start : start + IMAGES_AT_ONCE]
            corrupted = corrupt(clean, kind, severity, settings.seed, first=start)
            for name, probs in predict_all(predictors, corrupted).items():
                parts[name].append(probs.mean(0))
            progress(number * len(images) + start + len(clean), len(cases) * len(images))
        for name, pooled in parts.items():
            probs = torch.cat(pooled)
            metrics = all_metrics(probs, labels, temperatures[name])
            kinds[name].setdefault(kind, {})[str(severity)] = metrics
            scores = per_image(probs, labels)
            each_image[name] += torch.stack([scores[metric] for metric in UNCERTAIN]).cpu() / len(cases)
    uncertain = uncertainty(each_image)
    return {name: summarised(of, kinds[BASELINE]) | uncertain[name] for name, of in kinds.items()}


def uncertainty(means: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Intervals of means over the images, from each predictor's accuracy and NLL `(2, n)` of every image."""
    boot = BootstrapOfMeans({name: dict(zip(UNCERTAIN, both, strict=True)) for name, both in means.items()})
    return {name: _uncertainty(boot, name, UNCERTAIN, BASELINE in means) for name in means}


def _uncertainty(boot: Paired, name: str, metrics: Sequence[str], with_control: bool) -> dict[str, Any]:
    each = {metric: boot.of(name, metric) for metric in metrics}
    found: dict[str, Any] = {"intervals": {metric: [one.low, one.high] for metric, one in each.items()}}
    if with_control and name != BASELINE:
        found["minus_control"] = {
            metric: asdict(boot.difference(name, BASELINE, metric)) for metric in metrics
        }
    return found


def out_of_distribution(inside: Mapping[str, Tensor], outside: Mapping[str, Tensor]) -> dict[str, Any]:
    """For each predictor and score `auroc` and `fpr_at_95`, from probabilities `(s, n, c)` of both sets.

    With them, as under corruption, `intervals` and, where the control has such a score, `minus_control`.
    """
    known = {name: unsureness(probs) for name, probs in inside.items()}
    others = {name: unsureness(outside[name]) for name in inside}
    found: dict[str, Any] = {name: {} for name in inside}
    for score in SCORES:
        having = [name for name in known if score in known[name]]
        if not having:
            continue
        boot = BootstrapOfDetection(
            {name: known[name][score] for name in having}, {name: others[name][score] for name in having}
        )
        for name in having:
            merits = {merit: boot.of(name, merit).value for merit in MERITS}
            found[name][score] = merits | _uncertainty(boot, name, MERITS, BASELINE in having)
    return found


def selective(probs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """For each predictor `aurc`, `excess_aurc`, and its curve at up to 100 coverages, the last of them 1."""
    found: dict[str, Any] = {}
    for name, rows in probs.items():
        risk = risk_coverage(rows.mean(0), labels)
        points = torch.linspace(0, len(risk), CURVE_POINTS + 1).ceil().long()[1:].unique() - 1
        found[name] = {
            "aurc": aurc(risk),
            "excess_aurc": excess_aurc(risk),
            "coverage": ((points + 1) / len(risk)).tolist(),
            "risk": risk[points].tolist(),
        }
    return found


def summarised(
    kinds: Mapping[str, Mapping[str, Mapping[str, float]]],
    baseline: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, Any]:
    """One predictor's part of `under_corruption`, of metrics by kind and severity, and the baseline's."""
    severities = list(next(iter(kinds.values())))
    errors, reference = _errors(kinds), _errors(baseline)
    by_severity = {s: _mean([by[s] for by in kinds.values()]) for s in severities}
    summary: dict[str, Any] = {
        "kinds": kinds,
        "severities": by_severity,
        "mean": _mean(list(by_severity.values())),
        "ce": corruption_errors(errors, reference),
    }
    mce = mean_corruption_error(errors, reference)
    return summary if mce is None else summary | {"mce": mce}


def corruption_errors(
    errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """The corruption error of each kind: `CE = Σ_severity error / Σ_severity error of the baseline`.

    Hendrycks and Dietterich (2019), whose baseline is AlexNet; below 1 is more robust than the baseline.
    A kind of which the baseline gets everything right has no corruption error and is left out. Both arguments
    have by kind the fraction of wrong images at each severity.

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


def _errors(kinds: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, list[float]]:
    return {kind: [1 - metrics["accuracy"] for metrics in by.values()] for kind, by in kinds.items()}


def _mean(records: list[Mapping[str, float]] | list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(record[key] for record in records) / len(records) for key in records[0]}

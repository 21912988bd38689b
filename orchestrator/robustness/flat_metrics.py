"""The numbers of `evaluation.json` by name, for MLflow and for tables."""

from collections.abc import Mapping
from typing import Any

from ekd_train.robustness.ood_detection import MERITS


def flat_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """What of an evaluation goes to MLflow as metrics, by name; the rest is in the artifact.

    `corruption/<predictor>/mce`, and `accuracy`, `nll`, `ece`, `cnll`, `cece`, `brier` over all corruptions;
    `out_of_distribution/<predictor>/<score>/auroc` and `fpr_at_95`; `risk_coverage/<predictor>/aurc`.
    """
    flat: dict[str, float] = {}
    for name, values in found["corruption"]["predictors"].items():
        flat |= {f"corruption/{name}/{metric}": value for metric, value in values["mean"].items()}
        if "mce" in values:
            flat[f"corruption/{name}/mce"] = values["mce"]
    for name, scores in found.get("out_of_distribution", {"predictors": {}})["predictors"].items():
        for score, merits in scores.items():
            flat |= {f"out_of_distribution/{name}/{score}/{m}": merits[m] for m in MERITS}
    for name, values in found["risk_coverage"]["predictors"].items():
        flat |= {f"risk_coverage/{name}/{key}": values[key] for key in ("aurc", "excess_aurc")}
    return flat

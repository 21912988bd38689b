"""Measure every predictor, once: temperature on validation, then the test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ekd_train.evaluation.diversity import diversity
from ekd_train.metrics import all_metrics, fit_temperature
from ekd_train.persistence.networks import load_predictions
from ekd_train.settings import Evaluation
from ekd_train.workers.jobs import PREDICTIONS
from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.average import averaged_student


def evaluate(context: RunContext) -> dict[str, Any]:
    """Predict in a worker group, measure here; the metrics of every predictor on both splits."""
    experiment = context.checked.experiment
    averaged_student(context)
    job = Evaluation(control=experiment.control_run(), student=experiment.student_run())
    (record,) = context.wait([job])
    tensors = load_predictions(context.checked.storage, PREDICTIONS, record["sha256"])
    return {"predictors": measure(tensors, record["cost"]), "latency": record["latency"]}


def measure(tensors: Mapping[str, Tensor], cost: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Metrics of each predictor from its probabilities.

    Args:
        tensors: `<split>/labels` (n,) and `<split>/<predictor>` (s, n, c) for both splits.
        cost: parameters, multiply-accumulates and measured latency of each predictor.

    Returns:
        For each predictor its cost, `temperature` (fitted on validation alone), `validation` and
        `test` metrics, and `diversity` on test where it has several members.
    """
    predictors: dict[str, Any] = {}
    for name, price in cost.items():
        pooled = {split: tensors[f"{split}/{name}"].mean(0) for split in ("validation", "test")}
        temperature = fit_temperature(pooled["validation"], tensors["validation/labels"])
        predictors[name] = {**price, "temperature": temperature}
        for split, probs in pooled.items():
            predictors[name][split] = all_metrics(probs, tensors[f"{split}/labels"], temperature)
        if several := diversity(tensors[f"test/{name}"]):
            predictors[name]["diversity"] = several
    return predictors

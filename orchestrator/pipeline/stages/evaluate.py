"""Measure every predictor, once: temperature on validation, then the test images."""

from collections.abc import Mapping

from ekd_train.class_metrics import class_metrics, recall_per_class
from ekd_train.evaluation.bootstrap import Bootstrap
from ekd_train.evaluation.diversity import diversity_of_blocks
from ekd_train.metrics import all_metrics, fit_temperature
from ekd_train.persistence.predictions import Predictions, load_predictions
from ekd_train.persistence.records import Cost
from ekd_train.settings import Evaluation, TrainingRun
from ekd_train.workers.allocator import give_back_what_is_freed
from orchestrator.experiment.controls import further_controls
from orchestrator.pipeline.manifest import read_experiment
from orchestrator.pipeline.manifest_content import Evaluated, Gain, Predictor
from orchestrator.pipeline.order import SEARCH
from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.average import averaged_student
from orchestrator.tuning.pool import trial_experiment


def evaluate(context: RunContext) -> Evaluated:
    """Predict in a worker group, measure here; the metrics of every predictor on both splits."""
    experiment = context.checked.experiment
    averaged_student(context)
    job = Evaluation(
        control=experiment.control_run(),
        student=experiment.student_run(),
        controls=further_controls(experiment.student_run(), experiment.evaluation),
        baseline=_baseline(context),
        baseline_average=experiment.student.average,  # no search decides it
        member_weights=context.manifest.content.averaged.member_weights,
    )
    (record,) = context.wait([job])
    tensors = load_predictions(context.checked.storage, context.checked.description, record.cost)
    predictors = measure(tensors, record.cost)
    return Evaluated(
        predictors=predictors,
        latency=record.latency,
        to_control=difference(tensors, "test", "averaged", "control"),
        gain=_gain(tensors),
        connectivity=record.connectivity,
    )


def _baseline(context: RunContext) -> TrainingRun | None:
    """The student of the experiment as it stands, if a search found a better one."""
    manifest = context.manifest.content
    if not manifest.done(SEARCH):
        return None
    found, pool = manifest.searched, read_experiment(context.checked.storage)
    if pool is None or found.baseline is None or found.baseline.trial == found.best.trial:
        return None
    return trial_experiment(pool, found.baseline.values).student_run()


def _gain(tensors: Predictions) -> Gain | None:
    """Validation accuracy of the averaged student minus the baseline's, paired by image."""
    if "validation/baseline" not in tensors:
        return None
    return difference(tensors, "validation", "averaged", "baseline")


def difference(tensors: Predictions, split: str, predictor: str, reference: str) -> Gain:
    """Of accuracies on one split; the same resamples as the report's give the same interval."""
    probs = {name: tensors.pooled(f"{split}/{name}") for name in (predictor, reference)}
    found = Bootstrap(probs, tensors[f"{split}/labels"]).difference(predictor, reference, "accuracy")
    return Gain(value=found.value, low=found.low, high=found.high)


def measure(tensors: Predictions, cost: Mapping[str, Cost]) -> dict[str, Predictor]:
    """Metrics of each predictor from its probabilities on both splits, one table at a time.

    For each predictor its cost, `temperature` (fitted on validation alone), `validation` and `test` metrics,
    and on test `recall_per_class`, and `diversity` where it has several members.
    """
    give_back_what_is_freed()
    predictors = {}
    for name, price in cost.items():
        validation, labels = tensors.pooled(f"validation/{name}"), tensors["validation/labels"]
        temperature = fit_temperature(validation, labels)
        on_validation = all_metrics(validation, labels, temperature) | class_metrics(validation, labels)
        del validation  # as large as the next one
        test, labels = tensors.pooled(f"test/{name}"), tensors["test/labels"]
        on_test = all_metrics(test, labels, temperature) | class_metrics(test, labels)
        recalls = () if name.startswith("teacher/") else recall_per_class(test, labels)
        del test
        predictors[name] = Predictor(
            **price.model_dump(),
            temperature=temperature,
            validation=on_validation,
            test=on_test,
            recall_per_class=recalls,
            diversity=diversity_of_blocks(tensors.blocks(f"test/{name}")) or None,
        )
    return predictors

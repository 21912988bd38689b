"""What is possible, and yet unlikely to be meant."""

from collections.abc import Collection, Iterable, Iterator

from ekd_train.objectives import objective_for
from ekd_train.own_code import is_own
from ekd_train.persistence.identity import differing
from orchestrator.experiment.method_defaults import CLIP_NORM, sums_losses
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.smoke import is_small
from orchestrator.pipeline.order import training_runs
from orchestrator.planning.plan import steps_of

APART = 0.05
"""Of what two networks started with, as much as may be left between them at the end."""
FEW_STEPS = 100
"""A network from scratch has learned little after so many."""


def doubts(
    experiment: Experiment, findings: Iterable[str], train_images: int, searched: Collection[str] = ()
) -> list[str]:
    """What is possible and yet unlikely to be meant, of images and given teachers (`findings`) and settings,
    a line each; nothing of an experiment that was made small, which is odd by intent.

    `searched`: the keys of a search's space, whose trials may use what the experiment as it stands does not.
    """
    if is_small(experiment):
        return []
    lines = [*findings, *_idle(experiment, searched)]
    unclipped = experiment.student.training.clip_norm is None and CLIP_NORM not in searched
    if unclipped and sums_losses(experiment.student, experiment.distillation):
        lines.append(
            "student.training.clip_norm is null, and EKD's loss is a sum of N + 1, whose gradients lost 8 of "
            "20 students in one regime: leave it out, or set it to 3, which lost none"
        )
    lines += _unscaled(experiment, unclipped)
    for run in training_runs(experiment):
        if run.role == "given":
            continue
        epochs, warmup = run.training.epochs, run.training.schedule.warmup_epochs
        group = "teachers" if run.name.startswith("teacher-") else "student"  # whose training a control has
        steps = steps_of(run, train_images)
        if steps < FEW_STEPS and run.architecture.weights is None:  # others have learned before
            lines.append(
                f"{group}.training: {train_images} images in batches of {run.training.batch_size} are "
                f"{steps} steps in {epochs} epochs, and networks learn in hundreds: lower batch_size, or "
                "raise epochs"
            )
        if run.student is not None and run.student.method == "papa":
            pulls, rate = steps // run.student.papa.every, run.student.papa.rate
            if (1 - rate) ** pulls > APART:
                lines.append(
                    f"student.papa: {run.name}'s networks are pulled together {pulls} times by "
                    f"{100 * rate:g} %, too little to be averaged: raise rate, or lower every"
                )
        if warmup >= epochs:
            lines.append(
                f"{group}.training.schedule.warmup_epochs={warmup:g} is not over before the last of {epochs} "
                "epochs: the full learning rate is never used"
            )
        if run.student is not None and run.student.factors.warmup_epochs >= epochs:
            lines.append(
                f"student.factors.warmup_epochs={run.student.factors.warmup_epochs:g} is not over before the "
                f"last of {epochs} epochs: the factors never learn at the full rate"
            )
    return list(dict.fromkeys(lines))  # teachers share theirs


def _unscaled(experiment: Experiment, unclipped: bool) -> Iterator[str]:
    """A line where z-scores are taken of logits that may begin alike: of 1e-7, not of their own size."""
    name = experiment.student.architecture.name
    if unclipped and experiment.distillation.standardise and name.startswith("vit_"):
        yield (
            f"distillation.standardise: torchvision's {name} begins with zeros in its head, unless that has "
            "weights to start from; z-scores of logits that are all alike have gradients of some 10^7: set "
            "student.training.clip_norm, to 1 say"
        )


def _idle(experiment: Experiment, searched: Collection[str]) -> Iterator[str]:
    """A line for each group of settings that was changed, and that nothing reads."""
    student, distillation = experiment.student, experiment.distillation
    method, objective = student.method, objective_for(student.method, distillation.objective)
    by_objective = f"distillation.objective={objective}", {"distillation.objective", "student.method"}
    by_method = f"student.method={method}", {"student.method"}
    papa = method == "papa" or "papa" in experiment.evaluation.controls
    own = is_own(objective)  # which may read all of them
    groups = (
        ("distillation.ekd", distillation.ekd, own or objective == "ekd", *by_objective),
        ("distillation.dkd", distillation.dkd, own or objective == "dkd", *by_objective),
        ("student.lora", student.lora, method == "lora", *by_method),
        ("student.branches", student.branches, method == "ekd", *by_method),
        ("student.papa", student.papa, papa, *by_method),
    )
    for name, settings, used, reader, deciding in groups:
        if not used and (changed := differing(settings)) and not deciding & set(searched):
            yield f"{name}.{next(iter(changed))} does nothing: {reader} does not read {name}"
    if student.average == "picked" and method == "kd" and "student.method" not in searched:
        yield "student.average=picked does nothing: student.method=kd has no members to be weighed"

"""Every network of an experiment, built on paper: whether it can be, and what it takes to store it."""

import torch

from ekd_train.data.description import DataDescription
from ekd_train.models.build_network import network_on_paper
from ekd_train.models.layers import depths, freeze
from ekd_train.models.stages import stages
from ekd_train.objectives import build_objective, objective_for
from ekd_train.objectives.trial import try_objective
from ekd_train.own_code import is_own
from ekd_train.perturbations.trial import try_perturbation
from ekd_train.settings import TrainingRun
from ekd_train.training.optimiser import check_optimiser
from orchestrator.errors import ExperimentError
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.order import training_runs


def check_networks(experiment: Experiment, description: DataDescription) -> None:
    """Build and apply every network once, on paper; raises `ExperimentError` for one that cannot be."""
    shape, classes = description.image_shape, description.num_classes
    for where, run in distinct_runs(experiment).items():
        try:
            network = network_on_paper(run, description)
            check_optimiser(run.training)
            if freeze(network, run.training.freeze) or run.training.layer_decay < 1:
                depths(network)  # raises where layers have no order
            rows = _smallest_share(run, experiment)
            logits = network.train()(torch.zeros(rows, *shape, device="meta"))
            if not isinstance(logits, torch.Tensor) or logits.shape[-2:] != (rows, classes):
                raise ValueError(f"{run.architecture.name} does not give logits (b, {classes}) in training")
            if experiment.distillation.ekd.feature > 0 and where.startswith("teachers"):
                stages(network)  # raises if nobody knows where its features are
        except (ValueError, TypeError, RuntimeError, OverflowError, NotImplementedError) as error:
            if _smallest_share(run, experiment) == 1 and "more than 1 value per channel" in str(error):
                raise ExperimentError(
                    f"{where}: a worker's share of a batch is one image, of which BatchNorm has one value a "
                    f"channel; raise training.batch_size ({run.training.batch_size}), use "
                    "fewer workers, or training.batch_norm=synchronised"
                ) from None
            raise ExperimentError(
                f"{where}: {one_line(error)}; images are {description.shape_text}, {classes} classes"
            ) from None
    try:
        name = objective_for(experiment.student.method, experiment.distillation.objective)
        objective = build_objective(name, experiment.distillation)
    except ValueError as error:
        raise ExperimentError(f"distillation: {one_line(error)}") from None
    student, teachers = experiment.student, experiment.teacher_count
    members = 1 if student.method == "kd" else student.members
    if is_own(experiment.perturbation.kind):
        try:
            try_perturbation(
                experiment.perturbation,
                image_shape=description.image_shape,
                members=members,
                teachers=teachers,
                classes=classes,
            )
        except Exception as error:
            raise ExperimentError(
                f"perturbation.kind: {experiment.perturbation.kind}: {one_line(error)}"
            ) from None
    if is_own(name):
        try:
            shown = members if experiment.distillation.assignment == "rotating" else teachers
            try_objective(objective, members=members, teachers=shown, classes=classes)
        except Exception as error:  # whatever it raises, it would raise after the teachers are trained
            raise ExperimentError(f"distillation.objective: {name}: {one_line(error)}") from None


def _smallest_share(run: TrainingRun, experiment: Experiment) -> int:
    """Images of one batch that a BatchNorm may have to do with."""
    synchronised = run.training.batch_norm == "synchronised"
    share = run.training.batch_size // (1 if synchronised else experiment.cluster.most_workers)
    return max(1, share // run.training.accumulate)


def distinct_runs(experiment: Experiment) -> dict[str, TrainingRun]:
    """One training run for each different network, by the experiment key that describes it."""
    teachers = experiment.teacher_runs()
    runs: dict[str, TrainingRun] = {}
    first = 0
    for index, group in enumerate(experiment.teachers):
        runs[
            "teachers.architecture" if len(experiment.teachers) == 1 else f"teachers.{index}.architecture"
        ] = teachers[first]
        first += group.count
    if unpruned := experiment.unpruned_run():
        runs["student.architecture"] = unpruned
    return runs | {"student": experiment.student_run()}


def bytes_needed(experiment: Experiment, description: DataDescription) -> int:
    """About what a run stores at most: checkpoints with momentum, weights, predictions."""
    per_network = [
        sum(p.numel() * p.element_size() for p in network_on_paper(run, description).state_dict().values())
        for run in distinct_runs(experiment).values()
    ]
    networks = len(training_runs(experiment)) + 1  # and the average
    checkpoints = 3 * (experiment.storage.keep_checkpoints + 1)
    images = description.validation + description.test
    predictions = 4 * images * description.num_classes * 2 * networks
    return (networks * (1 + checkpoints)) * max(per_network) + predictions + (64 << 20)

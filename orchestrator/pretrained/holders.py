"""What of an experiment starts from weights, and what is known of it once they are read."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from ekd_train.settings import Architecture, Pretrained, TrainingRun
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.teachers import Teachers
from orchestrator.pretrained.network import PretrainedNetwork


def with_weights(experiment: Experiment) -> dict[str, tuple[Pretrained, TrainingRun]]:
    """What starts from weights that exist, by its dotted key: groups of teachers, and the student; with the
    first training run that does."""
    runs = iter(experiment.teacher_runs())
    several = len(experiment.teachers) > 1
    holders: dict[str, tuple[Pretrained, TrainingRun]] = {
        f"teachers.{index}" if several else "teachers": (group, next(islice(runs, 0, group.count)))
        for index, group in enumerate(experiment.teachers)
    }
    start = experiment.unpruned_run() or experiment.control_run()
    holders["student.architecture"] = (experiment.student.architecture, start)
    return {key: (holder, run) for key, (holder, run) in holders.items() if holder.weights is not None}


def with_completed(experiment: Experiment, completed: Mapping[str, Pretrained]) -> Experiment:
    """`experiment` with what is known of the weights of its holders, by the keys of `with_weights`."""
    teachers = tuple(
        completed.get(f"teachers.{i}" if len(experiment.teachers) > 1 else "teachers", group)
        for i, group in enumerate(experiment.teachers)
    )
    architecture = completed.get("student.architecture", experiment.student.architecture)
    student = experiment.student.model_copy(update={"architecture": architecture})
    return experiment.model_copy(update={"teachers": teachers, "student": student})


def completed_by(holder: Pretrained, network: PretrainedNetwork) -> Pretrained:
    """`holder` with what is known of its weights; what it states goes before that.

    Raises `ExperimentError`: it states another SHA-256, or nobody knows the architecture.
    """
    stated = holder.weights_sha256
    if stated not in (None, network.sha256):
        raise ExperimentError(
            f"its SHA-256 is {network.sha256[:16]}..., but weights_sha256 states {str(stated)[:16]}...; "
            "restore the weights, or state theirs"
        )
    if network.program is not None and holder.mean is None:
        channels = network.program.image_shape[0]
        raise ExperimentError(
            "ekd did not register it, and whether it normalises images is within its program; state its "
            f"architecture, and the mean and std that it has within, or mean: {[0] * channels} and "
            f"std: {[1] * channels} if none: the result is compared with the program"
        )
    found: dict[str, Any] = {"weights_sha256": network.sha256}
    if holder.mean is None and network.mean is not None:
        found |= {"mean": network.mean, "std": network.std}
    if holder.image_size is None:
        found["image_size"] = network.image_size
    own = holder.architecture if isinstance(holder, Teachers) else holder
    assert isinstance(own, Architecture)
    named = own.model_copy(update=dict.fromkeys(Pretrained.model_fields)) != Architecture()
    if not named:
        if network.architecture is None:
            raise ExperimentError(
                "which network are they of? Name its architecture, such as architecture: {name: resnet18}"
            )
        own = network.architecture
    if isinstance(holder, Architecture):
        kept = {name: getattr(holder, name) for name in Pretrained.model_fields}
        return own.model_copy(update=kept | found)
    return holder.model_copy(update=found | {"architecture": own})

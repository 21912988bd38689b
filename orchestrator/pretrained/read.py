"""From the weights that an experiment names to the networks, and to an experiment that says what they are."""

from collections.abc import Mapping
from importlib import import_module
from itertools import islice
from typing import Any

from ekd_train.settings import Architecture, Pretrained, TrainingRun
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.teachers import Teachers
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.state_dict import from_file

PATIENCE_S = 20.0
"""A user waits for this: nothing has begun yet."""

SOURCES = {
    "torchvision:": "torchvision_weights",
    "timm:": "timm_weights",
    "models:/": "registered",
    "run:": "earlier_run",
}
"""What is not a file: how it begins, and the module here whose `read` knows the rest. Each is imported when
it is asked for: their libraries take seconds, and timm is an extra."""


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


def read_pretrained(experiment: Experiment) -> tuple[Experiment, Mapping[str, PretrainedNetwork]]:
    """The networks by their SHA-256, and `experiment` with that and with what else is known of them.

    What the experiment states goes before what is known. Raises `ExperimentError`.
    """
    networks: dict[str, PretrainedNetwork] = {}
    read: dict[str, PretrainedNetwork] = {}
    completed: dict[str, Pretrained] = {}
    for key, (holder, _) in with_weights(experiment).items():
        assert holder.weights is not None
        try:
            if holder.weights not in read:
                read[holder.weights] = _read(holder, experiment)
            network = read[holder.weights]
            completed[key] = _completed(holder, network)
        except EkdError as error:
            raise ExperimentError(f"{key}.weights: {holder.weights}: {error}") from None
        networks[network.sha256] = network
    teachers = tuple(
        completed.get(f"teachers.{i}" if len(experiment.teachers) > 1 else "teachers", group)
        for i, group in enumerate(experiment.teachers)
    )
    architecture = completed.get("student.architecture", experiment.student.architecture)
    student = experiment.student.model_copy(update={"architecture": architecture})
    return experiment.model_copy(update={"teachers": teachers, "student": student}), networks


def _read(holder: Pretrained, experiment: Experiment) -> PretrainedNetwork:
    weights = str(holder.weights)
    for beginning, module in SOURCES.items():
        if weights.startswith(beginning):
            try:
                source = import_module(f"orchestrator.pretrained.{module}")
            except ModuleNotFoundError as error:
                raise ExperimentError(
                    f"{weights} needs {error.name}: pip install 'ekd[{error.name}]'"
                ) from None
            found: PretrainedNetwork = source.read(
                weights.removeprefix(beginning), experiment, holder.weights_sha256
            )
            return found
    return from_file(weights, experiment.storage.endpoint_url, PATIENCE_S)


def _completed(holder: Pretrained, network: PretrainedNetwork) -> Pretrained:
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

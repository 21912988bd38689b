"""How much memory each training run's worker needs, and whether a GPU has that much: counted on paper."""

import math
from dataclasses import dataclass, replace

import torch

from ekd_train.data.description import DataDescription
from ekd_train.data.memory import memory_limit
from ekd_train.settings import TrainingRun
from ekd_train.training.speed import precision_on
from ekd_train.training.step_on_paper import step_on_paper
from orchestrator.errors import ExperimentError
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import Experiment
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.data import gpu_memory
from orchestrator.planning.networks import distinct_runs

GIB = 2**30

BESIDE_TENSORS = {"GPU": 1.0, "worker": 0.5}
"""GiB that CUDA, cuDNN and freed blocks take of a GPU, and Python and its libraries of a worker."""


@dataclass(frozen=True)
class Need:
    """What a worker of one training run needs at most at once, in bytes."""

    run: str
    share: int
    """Images of a batch that one worker takes."""
    lasting: int
    """Weights, momenta, teachers, and all images of a data set that is not packed."""
    step: int
    """What a step of `share` images takes besides."""
    at_most: bool = False
    """Whether it takes less: counted in float32, of a step that is computed in half of that."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.lasting + self.step

    def images_within(self, available: float) -> int:
        """About the largest share that `available` bytes are enough for."""
        # Less than in proportion, because a smaller step is not quite that much smaller.
        return max(0, math.floor(0.9 * (available - self.lasting) / self.step * self.share))


def needs(experiment: Experiment, description: DataDescription, *, packed: bool = False) -> list[Need]:
    """Of every kind of network that is trained; `packed`: images come by batches, and are not held.

    Raises `RuntimeError` for a run that reads values in a step.
    """
    images = 0 if packed else description.train + description.validation + description.test
    held = images * math.prod(description.image_shape)
    found = []
    for key, run in distinct_runs(experiment).items():
        if run.role != "given":
            need = _need(run, experiment, description, held)
            found.append(replace(need, run=key.removesuffix(".architecture")))
    return found


def _need(run: TrainingRun, experiment: Experiment, description: DataDescription, held: int) -> Need:
    workers = experiment.cluster.fewest_workers
    share = -(-run.training.batch_size // workers)
    counted, at_most = _counted(run, on_gpu=experiment.cluster.gpus_per_worker > 0)
    cost = step_on_paper(counted, description, images=share)
    lasting = cost.lasting_bytes + held
    if workers > 1:  # gradients lie in the buckets that workers exchange too
        lasting += cost.gradient_bytes
    return Need(run.name, share, lasting, cost.peak_bytes - cost.lasting_bytes, at_most)


def _counted(run: TrainingRun, *, on_gpu: bool) -> tuple[TrainingRun, bool]:
    """`run` in the precision that is counted, and whether that is more than it takes.

    On paper, auto is bfloat16, as GPUs have it; this machine's processor may not. What is computed again for
    gradients can be counted in float32 only.
    """
    speed = run.training.speed
    precision = speed.precision
    if precision == "auto" and not on_gpu:
        precision = precision_on(speed, torch.device("cpu"))
    at_most = speed.checkpoint_activations and precision != "float32"
    speed = speed.model_copy(update={"precision": "float32" if at_most else precision})
    training = run.training.model_copy(update={"speed": speed})
    return run.model_copy(update={"training": training}), at_most


def memory_lines(
    experiment: Experiment, description: DataDescription, capacity: Capacity, *, packed: bool = False
) -> list[str]:
    """Lines for the plan; `packed` as `needs`. Raises `ExperimentError` where that is more than there is."""
    of = "GPU" if experiment.cluster.gpus_per_worker else "worker"
    try:
        found = needs(experiment, description, packed=packed)
    except Exception as error:  # code of one's own may raise anything
        return [f"memory    not known: {one_line(error)}"]
    available = _available(experiment, capacity)
    if available is not None:
        for need in found:
            _check(need, available, of)
    parts = ", ".join(f"{need.run} {'at most ' if need.at_most else ''}{_size(need.total)}" for need in found)
    has = f", of {_size(available)}" if available is not None else ""
    beside = f"          and about {BESIDE_TENSORS[of]:g} GiB beside tensors"
    return [f"memory    of each {of}: {parts}", f"{beside}{has}"]


def _check(need: Need, available: float, of: str) -> None:
    room = available - BESIDE_TENSORS[of] * GIB
    if need.total <= room or need.at_most:
        return
    fits = need.images_within(room)
    enough = f"about {fits} would fit" if fits else "not even one would fit"
    raise ExperimentError(
        f"{need.run}.training: a step of {need.share} images takes {_size(need.total)}, and a {of} has "
        f"{_size(available)}; {enough}. Raise accumulate, lower batch_size, set "
        "speed.checkpoint_activations=true or speed.precision=bfloat16, or use more workers "
        "(cluster.workers_per_run)"
    )


def _available(experiment: Experiment, capacity: Capacity) -> float | None:
    """Bytes for one worker, where they are known: of its part of a GPU, or of this machine."""
    cluster = experiment.cluster
    if not cluster.gpus_per_worker:
        return memory_limit() / cluster.fewest_workers if capacity.own else None
    memory = gpu_memory(cluster, here=capacity.own)
    return None if memory is None else min(1.0, cluster.gpus_per_worker) * memory


def _size(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB / 10 else f"{size / 2**20:.3g} MiB"

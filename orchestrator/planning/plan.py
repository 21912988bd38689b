"""What would run, and what it would cost: computed without starting anything."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from ekd_train.data.description import DataDescription
from ekd_train.models.build_network import build_plain
from ekd_train.models.cost import count_macs, count_parameters
from ekd_train.objectives import build_objective, objective_for
from ekd_train.persistence.networks import Networks
from ekd_train.perturbations import changes_images, perturbation_of
from ekd_train.settings import TrainingRun
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.order import training_runs
from orchestrator.pipeline.summary import compact
from orchestrator.planning.capacity import Capacity, runs_at_once
from orchestrator.planning.data import gib, packed_line
from orchestrator.planning.networks import bytes_needed
from orchestrator.planning.preflight import Checked
from orchestrator.tracking import redacted

GPU_FLOPS_PER_S = 100e12
"""What a GPU of a cluster is taken to do of them: a third of an A100's bfloat16 peak [ours]."""

BACKWARD = 2
"""A backward pass costs about two forward passes; through activations alone, one."""


@dataclass(frozen=True)
class Passes:
    """Network evaluations for one image in one training step, in forward-pass equivalents."""

    teachers: float
    student: float
    calls: float
    """In which they are made: the student's members go together."""

    @property
    def total(self) -> float:
        """All of them, teachers' and student's counted alike."""
        return self.teachers + self.student


def passes(run: TrainingRun) -> Passes:
    """What one image costs in a step of `run`: forward 1, full backward 2, backward to the pixels alone 1.

    With `checkpoint_activations` the forward of what learns counts twice.

    A perturbation evaluates the networks that its draw names and follows the gradient through one of
    them, whether they are teachers or the student's members.
    """
    if run.role == "given":
        return Passes(0, 0, 0)
    again = 1 if run.training.speed.checkpoint_activations else 0
    step = 1 + again + BACKWARD
    if run.student is None:
        return Passes(0, step, step)
    members = 1 if run.student.method == "kd" else run.student.members
    teachers = calls = float(1 if run.best_teacher_only else _teachers_of_a_step(run))
    steps = step * (2 if _judges_clean_images_too(run) else 1)
    student = float(members * steps)
    calls += steps
    perturbation = perturbation_of(run.perturbation.kind)
    if run.perturbation.strength > 0 and perturbation.drawn_teachers:
        drawn = perturbation.drawn_teachers + 1
        teachers += drawn
        student += drawn if perturbation.needs_student else 0
        calls += drawn * (2 if perturbation.needs_student else 1)
    return Passes(teachers, student, calls)


def _teachers_of_a_step(run: TrainingRun) -> int:
    if run.student is None or run.distillation is None or run.distillation.assignment != "rotating":
        return len(run.teachers)
    return min(run.student.members, len(run.teachers))


def _judges_clean_images_too(run: TrainingRun) -> bool:
    if run.student is None or run.distillation is None:
        return False
    name, perturbation = objective_for(run.student.method, run.distillation.objective), run.perturbation
    objective = build_objective(name, run.distillation)
    return objective.needs_clean_student and changes_images(perturbation.kind, perturbation.strength)


def training_work(run: TrainingRun) -> float:
    """Cost of the whole run relative to other runs of the experiment: passes x epochs."""
    return passes(run).total * run.epochs


@dataclass(frozen=True)
class PlannedRun:
    """One training run as it would be."""

    run: TrainingRun
    params: int
    macs: int
    """Of the forward of one image."""
    steps: int
    flops: float
    """Multiply-accumulates count two; 0 of a network that is stored."""
    stored: Literal["trained", "reused"] | None = None
    """By this run, or by another one."""


Sizes = dict[str, tuple[int, int]]
"""Parameters and multiply-accumulates of a plain network, by its architecture."""


def planned_runs(
    experiment: Experiment,
    description: DataDescription,
    networks: Networks | None = None,
    warn: Callable[[str], None] = lambda _: None,
    sizes: Sizes | None = None,
) -> list[PlannedRun]:
    """Every training run with its size and cost, and whether `networks` has it; `warn` is told of damage.

    `sizes`: what other calls have counted, and this one adds to.
    """
    costs = {} if sizes is None else sizes

    def cost(run: TrainingRun) -> tuple[int, int]:
        key = run.architecture.model_dump_json()
        if key not in costs:
            plain = build_plain(run.architecture, description)
            costs[key] = count_parameters(plain), count_macs(plain, description.image_shape)
        return costs[key]

    planned = []
    for run in training_runs(experiment):
        params, macs = cost(run)
        steps = steps_of(run, description.train)
        each = passes(run)
        teachers = [cost(teacher)[1] for teacher in run.teachers]
        teacher_macs = each.teachers * sum(teachers) / len(teachers) if teachers else 0.0
        per_image = 2 * (each.student * macs + teacher_macs)
        flops = per_image * steps * run.training.batch_size
        if networks is None or (record := networks.find(run, warn)) is None:
            planned.append(PlannedRun(run, params, macs, steps, flops))
        else:
            stored: Literal["trained", "reused"] = (
                "reused" if record.reused_by(networks.run_id) else "trained"
            )
            planned.append(PlannedRun(run, params, macs, steps, 0.0, stored))
    return planned


def steps_of(run: TrainingRun, train_images: int) -> int:
    """How many steps the run takes of so many training images."""
    return run.epochs * (train_images // run.training.batch_size)


def plan_lines(checked: Checked) -> list[str]:
    """What is planned, where: run id, data, cluster, workers, storage, tracking."""
    experiment, described = checked.experiment, checked.description
    sizes = f"{described.train} training, {described.validation} validation, {described.test} test"
    images = f"{sizes} images of {described.shape_text}, {described.num_classes} classes"
    return [
        f"run id    {checked.run_id}",
        f"data      {described.name}: {images}",
        *([f"          {packed_line(checked.dataset.packed)}"] if checked.dataset.packed else []),
        f"cluster   {checked.capacity.describe()}{checked.capacity.unused_gpus(experiment.cluster)}",
        *workers_lines(experiment, checked.capacity),
        f"storage   {checked.storage.uri()}",
        f"disk      at most about {gib(bytes_needed(experiment, described))} there: networks, checkpoints, "
        "predictions",
        f"tracking  {redacted(checked.tracking_uri)}",
        f"model     {experiment.model_name}",
        *checked.given.lines,
    ]


def total_line(planned: list[PlannedRun], note: str = "") -> str:
    """The cost of all training; `note` says what it leaves out."""
    flops = sum(item.flops for item in planned)
    total = f"total     {compact(flops)} FLOPs of training"
    if (hours := flops / GPU_FLOPS_PER_S / 3600) >= 1:
        total += f": {hours:,.0f} GPU hours at {GPU_FLOPS_PER_S / 1e12:g} TFLOP/s"
    return (
        f"{total}{f', {note}' if note else ''}\n"
        "          (passes per image: a forward of one network is 1, its backward 2,\n"
        "          to the pixels alone 1)"
    )


def runs_table(planned: list[PlannedRun]) -> Table:
    """Every training run: workers, batch, learning rate, steps, passes, FLOPs."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    headings = (
        "run",
        "architecture",
        "params",
        "epochs",
        "steps",
        "batch",
        "lr",
        "passes",
        "FLOPs",
    )
    for index, heading in enumerate(headings):
        # What is too wide breaks the architecture's name, and cuts no number.
        made.add_column(
            heading,
            justify="left" if index < 2 else "right",
            no_wrap=heading != "architecture",
            overflow="fold",
        )
    for item in planned:
        made.add_row(
            item.run.name,
            architecture_name(item.run),
            compact(item.params),
            *_training_cells(item),
        )
    return made


def _training_cells(item: PlannedRun) -> tuple[str, ...]:
    training = item.run.training
    if item.run.role == "given":
        return *[""] * 5, "given"
    return (
        str(training.epochs),
        str(item.steps),
        f"{training.batch_size}",
        f"{training.learning_rate:g}",
        f"{passes(item.run).total:g}",
        item.stored or compact(item.flops),
    )


def workers_lines(experiment: Experiment, capacity: Capacity) -> list[str]:
    """Workers of a run, and how many runs go side by side."""
    cluster = experiment.cluster
    per = f"{cluster.cpus_per_worker} CPUs" if cluster.cpus_per_worker != 1 else "1 CPU"
    if cluster.gpus_per_worker:
        per += f" and {cluster.gpus_per_worker:g} GPU{'' if cluster.gpus_per_worker == 1 else 's'}"
    count = cluster.workers_per_run
    workers = (
        f"{count[0]} to {count[1]} workers"
        if isinstance(count, tuple)
        else f"{count} worker{'s' if count > 1 else ''}"
    )
    side = runs_at_once(cluster, capacity, experiment.teacher_count + 1)
    return [
        f"workers   {workers} of {per} per run, {side} run{'s' if side > 1 else ''} side by side",
        "          batch and lr are global: they do not change with the number of workers",
    ]


def architecture_name(run: TrainingRun) -> str:
    """An architecture in a few characters, with the student's subnetworks."""
    a = run.architecture
    name = a.name
    if a.depth is not None:
        name = {"wide_resnet": "WRN", "resnet": "ResNet"}.get(a.name, a.name) + f"-{a.depth}"
        name += f"-{a.width:g}" if a.name == "wide_resnet" or a.width != 1 else ""
    if a.pruned:
        name += f" less {100 * a.pruned:g} %"
    if run.student is not None and run.student.method != "kd":
        name += f" {run.student.method} x{run.student.members}"
    return name

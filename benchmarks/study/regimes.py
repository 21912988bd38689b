"""Data, networks and schedules in which the arms are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ekd_train.settings import TrainingRun
from orchestrator.experiment.schema import Experiment, load_experiment


@dataclass(frozen=True)
class Regime:
    """A packaged experiment, changed; `mixed_teachers` replaces its teachers for arms with two families."""

    experiment: str
    overrides: tuple[str, ...] = ()
    mixed_teachers: str = ""
    """YAML of the groups of teachers."""
    because: str = ""
    """How it was found, for the page of results."""

    def settings(self, pool: str, overrides: Sequence[str] = ()) -> list[str]:
        """Changes of the packaged experiment: for teachers of `pool` ("same" or "mixed"), and an arm's."""
        teachers = [f"teachers={self.mixed_teachers}"] if pool == "mixed" else []
        return [*self.overrides, *teachers, *overrides]

    def build(self, pool: str, overrides: Sequence[str] = (), teacher_set: int = 0) -> Experiment:
        """The experiment with these `settings`, with the teachers of a set, whose number is their seed."""
        seed = f"seed={teacher_set}"
        return load_experiment(self.experiment, [seed, *self.settings(pool, overrides)])

    def teachers(self, pool: str, teacher_set: int = 0) -> tuple[TrainingRun, ...]:
        """The training runs of a set of a pool."""
        return self.build(pool, teacher_set=teacher_set).teacher_runs()


def _two_families(wide: str, resnet: str, training: str) -> str:
    groups = [
        f"{{count: 2, architecture: {architecture}, training: {training}}}" for architecture in (wide, resnet)
    ]
    return f"[{', '.join(groups)}]"


_WRN_10 = "{name: wide_resnet, depth: 10, width: 1, stem_channels: 8}"
_WRN_16_2 = "{name: wide_resnet, depth: 16, width: 2, stem_channels: 8}"
_RESNET_8 = "{name: resnet, depth: 8, stem_channels: 8}"
_RESNET_14_2 = "{name: resnet, depth: 14, width: 2, stem_channels: 8}"
_DIGITS = (
    "{epochs: 200, batch_size: 64, learning_rate: 0.03, schedule: {kind: cosine, warmup_epochs: 5}, "
    "evaluate_every: 4, checkpoint_every: 100, speed: {precision: float32}}"
)
_COMPACT = "with high-capacity teachers and a compact student: EKD's setting"


def fashion(
    fraction: float,
    epochs: int,
    stem_channels: int = 16,
    *,
    compact: bool = False,
    augmented: bool = False,
    precision: str = "float32",
) -> Regime:
    """Fashion-MNIST: a fraction of its training images, networks of a width, with crops and flips or not."""
    training = (
        f"{{epochs: {epochs}, batch_size: 64, learning_rate: 0.05, "
        "schedule: {kind: cosine, warmup_epochs: 2}, evaluate_every: 2, checkpoint_every: 10, "
        f"speed: {{precision: {precision}}}}}"
    )
    student = f"{{name: wide_resnet, depth: 10, width: 1, stem_channels: {stem_channels}}}"
    wide, resnet = student, f"{{name: resnet, depth: 8, stem_channels: {stem_channels}}}"
    if compact:
        wide = f"{{name: wide_resnet, depth: 16, width: 2, stem_channels: {stem_channels}}}"
        resnet = f"{{name: resnet, depth: 14, width: 2, stem_channels: {stem_channels}}}"
    remarks = (", crops and flips" if augmented else "") + (f", {_COMPACT}" if compact else "")
    remarks += f", in {precision}" if precision != "float32" else ""
    return Regime(
        "fashion_mnist",
        (
            f"data.train_fraction={fraction}",
            f"teachers.architecture={wide}",
            f"student.architecture={student}",
            f"teachers.training={training}",
            f"student.training={training}",
            *(("data.augmentation={crop_padding: 2, flip: true}",) if augmented else ()),
        ),
        _two_families(wide, resnet, training),
        f"{100 * fraction:g} % of the training images, {epochs} epochs, {stem_channels} stem channels "
        f"(the packaged experiment has 16){remarks}",
    )


def _cifar(experiment: str, width: int, fraction: float, *, compact: bool = False) -> Regime:
    training = (
        "{epochs: 200, batch_size: 128, learning_rate: 0.1, schedule: {kind: cosine, warmup_epochs: 5}, "
        "evaluate_every: 2, checkpoint_every: 20, speed: {precision: float32}}"
    )
    wide = f"{{name: wide_resnet, depth: 28, width: {width}}}"
    student = f"{{name: wide_resnet, depth: 16, width: {width}}}" if compact else wide
    return Regime(
        experiment,
        (
            f"data.train_fraction={fraction}",
            f"teachers.architecture={wide}",
            f"student.architecture={student}",
            f"teachers.training={training}",
            f"student.training={training}",
        ),
        _two_families(wide, f"{{name: resnet, depth: 56, width: {width}}}", training),
        f"{100 * fraction:g} % of the training images, the recipe of the LatentBE paper"
        f"{f', {_COMPACT}' if compact else ''}; for a GPU",
    )


FRACTIONS = {0.05: 40, 0.1: 20, 0.2: 12, 0.5: 6, 1.0: 4}
"""Fractions of the training images, and how many epochs Fashion-MNIST's take: fewer of more images."""


def _with_images(*, compact: bool) -> dict[str, Regime]:
    suffix = "-compact" if compact else ""
    # Small enough for two cores: all arms of the first take hours, so do a few of each of the others.
    found = {f"fashion_mnist-2{suffix}": fashion(0.02, 40, stem_channels=4, compact=compact)}
    for fraction, epochs in FRACTIONS.items():
        percent = f"{100 * fraction:g}{suffix}"
        found[f"fashion_mnist-{percent}"] = fashion(fraction, epochs, stem_channels=8, compact=compact)
        found[f"cifar10-{percent}"] = _cifar("cifar10", 1, fraction, compact=compact)
        found[f"cifar100-{percent}"] = _cifar("cifar100_latentbe", 4, fraction, compact=compact)
    return found


REGIMES: dict[str, Regime] = {
    "digits": Regime(
        "digits",
        (f"teachers.training={_DIGITS}", f"student.training={_DIGITS}"),
        _two_families(_WRN_10, _RESNET_8, _DIGITS),
        "200 training images, 200 epochs: the regime of the packaged experiment. It was found by the "
        "validation accuracy of control and averaged student with 200 or 300 images and 100 or 200 epochs: "
        "after 100 the student had not learned enough yet (docs/log.md)",
    ),
    "digits-compact": Regime(
        "digits",
        (
            f"teachers.architecture={_WRN_16_2}",
            f"teachers.training={_DIGITS}",
            f"student.training={_DIGITS}",
        ),
        _two_families(_WRN_16_2, _RESNET_14_2, _DIGITS),
        f"as digits, {_COMPACT} (teachers WRN-16-2, student WRN-10-1)",
    ),
    "fashion_mnist-2-bfloat16": fashion(0.02, 40, stem_channels=4, precision="bfloat16"),
    # Whether KD gains nothing from 20 % on because of the images or because of the few epochs.
    "fashion_mnist-20-long": fashion(0.2, 40, stem_channels=8),
    **_with_images(compact=False),
    **_with_images(compact=True),
}
"""By name, as the command line takes them."""

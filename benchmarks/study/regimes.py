"""Data, networks and schedules in which the arms are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ekd_train.settings import TrainingRun
from orchestrator.experiment import Experiment, load_experiment


@dataclass(frozen=True)
class Regime:
    """A packaged experiment, changed; `mixed_teachers` replaces its teachers for arms with two families."""

    experiment: str
    overrides: tuple[str, ...] = ()
    mixed_teachers: str = ""
    """YAML of the groups of teachers."""
    because: str = ""
    """How it was found, for the page of results."""

    def build(self, pool: str, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment with the teachers of `pool` ("same" or "mixed") and an arm's overrides."""
        teachers = [f"teachers={self.mixed_teachers}"] if pool == "mixed" else []
        return load_experiment(self.experiment, [*self.overrides, *teachers, *overrides])

    def teachers(self, pool: str) -> tuple[TrainingRun, ...]:
        """The training runs of a pool."""
        return self.build(pool).teacher_runs()


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
    "evaluate_every: 4, checkpoint_every: 100}"
)


def _fashion(fraction: float, epochs: int, stem_channels: int = 16) -> Regime:
    training = (
        f"{{epochs: {epochs}, batch_size: 64, learning_rate: 0.05, "
        "schedule: {kind: cosine, warmup_epochs: 2}, evaluate_every: 2, checkpoint_every: 10}"
    )
    wide = f"{{name: wide_resnet, depth: 10, width: 1, stem_channels: {stem_channels}}}"
    resnet = f"{{name: resnet, depth: 8, stem_channels: {stem_channels}}}"
    return Regime(
        "fashion_mnist",
        (
            f"data.train_fraction={fraction}",
            *(
                f"{of}.{key}"
                for of in ("teachers", "student")
                for key in (f"architecture={wide}", f"training={training}")
            ),
        ),
        _two_families(wide, resnet, training),
        f"{100 * fraction:g} % of the training images, {epochs} epochs, {stem_channels} stem channels "
        "(the packaged experiment has 16)",
    )


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
        "as digits, with high-capacity teachers (WRN-16-2) and the compact student (WRN-10-1): EKD's setting",
    ),
    "fashion_mnist-2": _fashion(0.02, 40, stem_channels=4),  # what two cores can train in all arms in hours
    **{
        f"fashion_mnist-{100 * fraction:g}": _fashion(fraction, epochs)
        for fraction, epochs in ((0.05, 40), (0.1, 30), (0.2, 25), (0.5, 15), (1.0, 10))
    },
}
"""By name, as the command line takes them."""

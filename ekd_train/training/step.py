"""One update of one network, from grey levels to changed weights; and what it is built of."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ekd_train.data.augment import AugmentationDraw, as_float, augment
from ekd_train.data.seeds import derive_seed
from ekd_train.data.tensors import TrainingData
from ekd_train.distributed import Workers
from ekd_train.evaluation.diversity import diversity_in_training
from ekd_train.models.build_network import build_network
from ekd_train.models.stages import logits_and_features
from ekd_train.models.teachers import Teachers
from ekd_train.objectives import Objective, Predictions, build_objective, objective_for
from ekd_train.perturbations import Draw, apply, changes_images
from ekd_train.settings import PerturbationSettings, Speed, TrainingRun
from ekd_train.training.optimiser import adjust_factor_gradients, build_optimiser
from ekd_train.training.speed import computing, lay_out
from ekd_train.training.trainee import Trainee, build_trainee


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch, with the random choices made for it."""

    images: Tensor
    """uint8 (b, channel, height, width)."""
    labels: Tensor
    """int64 (b,)."""
    augmentation: AugmentationDraw
    perturbation: Draw
    teachers: Teachers | None
    """Those of this step."""
    teacher_logits: Tensor | None
    """Theirs, `(k, b, c)` on the augmented images, where they are known already."""
    weight: float
    """What this share counts in the workers' mean: its images x workers / global batch."""


@dataclass(frozen=True)
class Step:
    """The update, with everything that stays the same from step to step.

    uint8 images ─ augment ─ clean ─ perturb(teachers i, j; members i, j) ─ x'
    x' ─ teachers (no gradient) ─────────────────────────┐
    x' ─ student (clean too, if asked for and another) ──┴─ objective ─ backward
    gradients ─ factor rule (xM, decay toward 1) ─ SGD
    """

    trainee: Trainee
    parallel: nn.Module
    """`trainee`, wrapped for data-parallel training where there are several workers."""
    objective: Objective
    perturbation: PerturbationSettings
    perturbation_temperature: float
    optimiser: torch.optim.SGD
    speed: Speed

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Update the weights once; the loss and its terms, on this share, detached.

        With them `{teachers,members}_diversity/*` on the images that the student learned from, where
        there are several: what the perturbation makes of the teachers' disagreement, and who follows.
        """
        clean = augment(batch.images, batch.augmentation)
        wants_clean = self.objective.needs_clean_student
        # Where no image changes, its logits on clean images are those it has anyway.
        twice = wants_clean and changes_images(self.perturbation.kind, self.perturbation.strength)
        with computing(self.speed, clean.device):
            images = apply(
                self.perturbation.kind,
                clean,
                batch.perturbation,
                strength=self.perturbation.strength,
                teachers=batch.teachers or (),
                student=self.trainee.network,
                temperature=self.perturbation_temperature,
            )
            teacher_logits, teacher_features = batch.teacher_logits, None
            if teacher_logits is None:
                teacher_logits, teacher_features = self._teach(batch.teachers, images)
        # A context of its own: autocast keeps converted weights until its end, and those that the
        # perturbation had converted without gradients would give the training forward none either.
        with computing(self.speed, clean.device):
            student, student_clean, ours, theirs = self.parallel(
                images, clean if twice else None, teacher_features
            )
        if wants_clean and not twice:
            student_clean = student
        losses = self.objective(
            Predictions(batch.labels, student, teacher_logits, student_clean, ours, theirs)
        )
        self.optimiser.zero_grad(set_to_none=True)
        (losses["loss"] * batch.weight).backward()
        adjust_factor_gradients(self.optimiser)
        self.optimiser.step()
        reported = {name: value.detach() for name, value in losses.items()}
        for who, logits in (("teachers", teacher_logits), ("members", student)):
            found = diversity_in_training(logits)
            reported |= {f"{who}_diversity/{name}": value.float() for name, value in found.items()}
        return reported

    @torch.no_grad()
    def _teach(self, teachers: Teachers | None, images: Tensor) -> tuple[Tensor | None, list[Tensor] | None]:
        if teachers is None or not self.objective.needs_teachers:
            return None, None
        if not self.objective.needs_features:
            return teachers(images), None
        pairs = [logits_and_features(teacher, images) for teacher in teachers]
        return torch.stack([logits for logits, _ in pairs]), [features for _, features in pairs]


def build_step(
    run: TrainingRun,
    data: TrainingData,
    workers: Workers,
    teachers: Teachers | None,
    start: Mapping[str, Tensor] | None,
) -> Step:
    """The untrained network of `run` on the workers' device, with all that updates it.

    Weights are drawn from torch's global generator, which is seeded by the run's seed and name first, or
    are `start`. The teachers are laid out in memory as the network is, in place.

    Raises `ValueError`: settings that do not fit the network or each other; the message says which.
    """
    torch.manual_seed(derive_seed(run.seed, run.name, "weights"))
    network = build_network(run, data.spec, start).to(workers.device)
    for module in (network, teachers):
        if module is not None:
            lay_out(module, run.training.speed)
    objective = _objective(run)
    trainee = build_trainee(network, objective, teachers, as_float(data.train.images[:2]))
    factors = run.student.factors if run.student is not None else None
    temperature = run.distillation.temperature if run.distillation is not None else 1.0
    return Step(
        trainee=trainee.train(),
        parallel=workers.parallel(trainee),
        objective=objective,
        perturbation=run.perturbation,
        perturbation_temperature=run.perturbation.temperature or temperature,
        optimiser=build_optimiser(trainee, run.training, factors),
        speed=run.training.speed,
    )


def _objective(run: TrainingRun) -> Objective:
    if run.student is None:
        return build_objective("label", run.distillation)
    chosen = run.distillation.objective if run.distillation is not None else "auto"
    return build_objective(objective_for(run.student.method, chosen), run.distillation)

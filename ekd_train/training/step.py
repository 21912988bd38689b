"""One update of one network, from grey levels to changed weights; and what it is built of."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ekd_train.data.augment import AugmentationDraw, as_float, augment
from ekd_train.data.mixing import Mixing, mix, smoothed
from ekd_train.data.seeds import derive_seed
from ekd_train.data.tensors import TrainingData
from ekd_train.data.transfer import to_device
from ekd_train.distributed import Workers
from ekd_train.evaluation.diversity import diversity_in_training
from ekd_train.models.build_network import build_network
from ekd_train.models.layers import freeze
from ekd_train.models.papa import Papa
from ekd_train.models.stages import logits_and_features
from ekd_train.models.teachers import Teachers
from ekd_train.objectives import Objective, Predictions, build_objective, objective_for
from ekd_train.perturbations import Draw, apply, changes_images
from ekd_train.settings import PerturbationSettings, Training, TrainingRun
from ekd_train.training.compiled import begin_step, compile_blocks
from ekd_train.training.moving_average import MovingAverage
from ekd_train.training.optimiser import adjust_factor_gradients, build_optimiser, clip_gradients
from ekd_train.training.recompute import recompute_activations
from ekd_train.training.speed import computing, lay_out, precision_on
from ekd_train.training.trainee import Trainee, build_trainee


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch, with the random choices made for it."""

    images: Tensor
    """uint8 (b, channel, height, width)."""
    labels: Tensor
    """int64 (b,); both of all images that this share is made of, where they are mixed."""
    augmentation: AugmentationDraw
    perturbation: Draw
    teachers: Teachers | None
    """Those of this step."""
    teacher_logits: Tensor | None
    """Theirs, `(k, b, c)` on the augmented images, where they are known already."""
    weight: float
    """What this share counts in the workers' mean: its images x workers / global batch."""
    mixing: Mixing | None = None
    """How they are mixed, where they are."""


@dataclass(frozen=True)
class Step:
    """The update, with everything that stays the same from step to step.

    uint8 images ─ augment ─ mix ─ clean ─ perturb(teachers i, j; members i, j) ─ x'
    x' ─ teachers (no gradient) ─────────────────────────┐
    x' ─ student (clean too, if asked for and another) ──┴─ objective ─ backward, for each part of the share
    gradients ─ clip ─ factor rule (xM, decay toward 1) ─ optimiser ─ moving average of the weights
    """

    trainee: Trainee
    parallel: nn.Module
    """`trainee`, wrapped for data-parallel training where there are several workers."""
    objective: Objective
    perturbation: PerturbationSettings
    perturbation_temperature: float
    optimiser: torch.optim.Optimizer
    training: Training
    classes: int
    ema: MovingAverage | None
    """The average of `trainee.network` along its training, if there is one."""
    scaler: torch.amp.GradScaler
    """Of the loss in float16; of no effect otherwise."""

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one, once it has begun."""
        if self.ema is None or (self.training.swa is not None and self.ema.n_averaged == 0):
            return self.trainee.network
        return self.ema.module

    def end_epoch(self, epoch: int) -> None:
        """After epoch number `epoch`: it counts in the mean of `training.swa`, if that has begun."""
        swa = self.training.swa
        if self.ema is not None and swa is not None and epoch > swa * self.training.epochs:
            self.ema.update(self.trainee.network)

    def __call__(self, *parts: Batch) -> dict[str, Tensor]:
        """Update the weights once; the loss and its terms, on this share, detached.

        `parts`: the share, in one piece or several that are taken one after the other.
        With them `{teachers,members}_diversity/*` on the images that the student learned from, where
        there are several: what the perturbation makes of the teachers' disagreement, and who follows.
        """
        begin_step(self.training.speed.compile, parts[0].images.device)
        if isinstance(self.trainee.network, Papa):
            self.trainee.network.begin_step()
        self.optimiser.zero_grad(set_to_none=True)
        share = sum(part.weight for part in parts)
        reported: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with self._gathering(last=index == len(parts) - 1):
                found = self._gradients(part)
            if len(parts) == 1:
                reported = found
            else:
                for name, value in found.items():
                    reported[name] = reported.get(name, 0) + value * (part.weight / share)
        self._update()
        return reported

    def add_gradients(self, *parts: Batch) -> None:
        """Leave the gradients of `parts`, of this worker alone, in the weights, and change nothing else."""
        self.optimiser.zero_grad(set_to_none=True)
        with self._gathering(last=False):
            for part in parts:
                self._gradients(part)

    def _gathering(self, last: bool) -> AbstractContextManager[None]:
        """Workers exchange gradients once a step, when all parts are in them."""
        parallel = self.parallel
        return (
            nullcontext() if last or not isinstance(parallel, DistributedDataParallel) else parallel.no_sync()
        )

    def _update(self) -> None:
        self.scaler.unscale_(self.optimiser)
        if self.training.clip_norm is not None:
            clip_gradients(self.optimiser, self.training.clip_norm)
        adjust_factor_gradients(self.optimiser)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.ema is not None and self.training.swa is None:
            self.ema.update(self.trainee.network)

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradients of a part of the share; the loss and its terms."""
        speed = self.training.speed
        clean, labels, label_probs = self._clean(batch)
        wants_clean = self.objective.needs_clean_student
        # Where no image changes, its logits on clean images are those it has anyway.
        twice = wants_clean and changes_images(self.perturbation.kind, self.perturbation.strength)
        with computing(speed, clean.device):
            images = apply(
                self.perturbation.kind,
                clean,
                batch.perturbation,
                strength=self.perturbation.strength,
                teachers=batch.teachers or (),
                student=self.trainee.network,
                temperature=self.perturbation_temperature,
                options=self.perturbation.options,
            )
            teacher_logits, teacher_features = batch.teacher_logits, None
            if teacher_logits is None:
                teacher_logits, teacher_features = self._teach(batch.teachers, images)
        # A context of its own: autocast keeps converted weights until its end, and those that the
        # perturbation had converted without gradients would give the training forward none either.
        with computing(speed, clean.device):
            student, student_clean, ours, theirs = self.parallel(
                images, clean if twice else None, teacher_features
            )
        if wants_clean and not twice:
            student_clean = student
        losses = self.objective(
            Predictions(labels, student, teacher_logits, student_clean, ours, theirs, label_probs)
        )
        self.scaler.scale(losses["loss"] * batch.weight).backward()
        reported = {name: value.detach() for name, value in losses.items()}
        for who, logits in (("teachers", teacher_logits), ("members", student)):
            found = diversity_in_training(logits)
            reported |= {f"{who}_diversity/{name}": value.float() for name, value in found.items()}
        return reported

    def _clean(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images before perturbation, labels `(b,)` and, where these are smoothed or mixed, `(b, c)`."""
        images, labels, mixing = augment(batch.images, batch.augmentation), batch.labels, batch.mixing
        smoothing = self.training.label_smoothing
        if mixing is None:
            return images, labels, smoothed(labels, self.classes, smoothing) if smoothing > 0 else None
        images, kept = mix(images, mixing)
        own, other = (labels[to_device(rows, labels.device)] for rows in (mixing.own, mixing.other))
        probs = torch.lerp(
            smoothed(other, self.classes, smoothing), smoothed(own, self.classes, smoothing), kept[:, None]
        )
        return images, torch.where(kept >= 0.5, own, other), probs

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
    training = run.training
    frozen = freeze(network, training.freeze)
    averages = training.ema > 0 or training.swa is not None
    ema = MovingAverage(network, training.ema or None) if averages else None
    if training.speed.checkpoint_activations:
        recompute_activations(network)
    compile_blocks(network, training.speed.compile, workers.device)
    trainee = build_trainee(network, objective, teachers, as_float(data.train.images[:2]), frozen)
    factors = run.student.factors if run.student is not None else None
    temperature = run.distillation.temperature if run.distillation is not None else 1.0
    return Step(
        trainee=trainee.train(),
        parallel=workers.parallel(trainee),
        objective=objective,
        perturbation=run.perturbation,
        perturbation_temperature=run.perturbation.temperature or temperature,
        optimiser=build_optimiser(trainee, training, factors),
        training=training,
        classes=data.spec.num_classes,
        ema=ema,
        scaler=torch.amp.GradScaler(
            workers.device.type, enabled=precision_on(training.speed, workers.device) == "float16"
        ),
    )


def _objective(run: TrainingRun) -> Objective:
    if run.student is None:
        return build_objective("label", run.distillation)
    chosen = run.distillation.objective if run.distillation is not None else "auto"
    return build_objective(objective_for(run.student.method, chosen), run.distillation)

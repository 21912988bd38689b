"""The loop of one training run: steps, validation, report, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.data.augment import as_float, draw_augmentation
from ekd_train.data.sampler import epoch_order, global_batches
from ekd_train.data.seeds import derive_seed
from ekd_train.data.tensors import TrainingData
from ekd_train.data.user_cache import cache_folder
from ekd_train.evaluation.evaluate import averaging_gap_warning, validate
from ekd_train.models.teachers import Teachers
from ekd_train.objectives import build_objective, objective_for
from ekd_train.persistence.checkpoint import Checkpoint, Checkpoints
from ekd_train.perturbations import draw
from ekd_train.settings import Factors, TrainingRun
from ekd_train.training.optimiser import build_optimiser, set_learning_rate
from ekd_train.training.schedule import learning_rate_factor, linear_warmup
from ekd_train.training.speed import computing, lay_out
from ekd_train.training.step import Batch, Step
from ekd_train.training.teacher_cache import TeacherCache, open_cache
from ekd_train.training.trainee import Trainee, build_network, build_trainee
from ekd_train.training.transfer import to_device
from ekd_train.workers.reporter import Reporter
from ekd_train.workers.workers import Workers

PROGRESS_EVERY_S = 0.5


class TrainingDiverged(RuntimeError):
    """Loss or weights are not finite any more; the message says where, and what to go back to."""


@dataclass
class Progress:
    """How far a run has come: all that is in a checkpoint beside the tensors."""

    epoch: int
    """Whole epochs done."""
    seconds: float
    history: list[dict[str, float]]
    best: dict[str, float] | None


@dataclass(frozen=True)
class Trained:
    """A finished run: its network holds the weights of the best validated epoch."""

    network: nn.Module
    best: dict[str, float]
    history: list[dict[str, float]]
    seconds: float


def train(
    run: TrainingRun,
    data: TrainingData,
    *,
    checkpoints: Checkpoints,
    reporter: Reporter,
    workers: Workers = Workers(),
    teachers: Teachers | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Train `run` to its end, from its newest checkpoint if there is one, else from `start` if given.

        for every epoch:
            for every global batch:  draw for the whole batch, take this worker's rows, Step
            validate the averaged network and the members
            report the record; keep the weights if they are the best so far
            checkpoint

    Every random choice is a function of (seed, run, step), so that a run that was cut off and
    continued ends with the same bits (same device and number of workers), and any number of
    workers sees the same augmented samples.

    Raises:
        TrainingDiverged: the loss or a weight became NaN or infinite.
        ValueError: fewer training images than a batch, or settings that do not fit the network.
    """
    loop = Loop(run, data, checkpoints, reporter, workers, teachers, start)
    reporter.started(loop.epoch)
    with checkpoints.storing():
        while not loop.finished:
            loop.advance()
    return loop.trained()


class Loop:
    """A training run that its caller moves on, one validated epoch at a time; arguments as `train`.

    It begins at the newest checkpoint, if there is one.
    """

    def __init__(
        self,
        run: TrainingRun,
        data: TrainingData,
        checkpoints: Checkpoints,
        reporter: Reporter,
        workers: Workers,
        teachers: Teachers | None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.run, self.data, self.checkpoints = run, data, checkpoints
        self.reporter, self.workers, self.teachers = reporter, workers, teachers
        self.settings = run.training
        self.steps_per_epoch = len(
            global_batches(epoch_order(0, 0, len(data.train.labels)), self.settings.batch_size)
        )
        self.best_weights: dict[str, Tensor] = {}
        self.teacher_cache: TeacherCache | None = None
        self.step = self._build(start)
        self.progress = Progress(0, 0.0, [], None)
        self.saved: int | None = None  # epoch of the newest checkpoint
        if (found := checkpoints.newest()) is not None:
            self.load(found)

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.progress.epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch >= self.settings.epochs

    @property
    def history(self) -> list[dict[str, float]]:
        """The records of all validated epochs, earlier starts' included."""
        return self.progress.history

    def advance(self) -> dict[str, float]:
        """Train up to and including the next epoch that is validated; its record. Not once `finished`.

        Called within `checkpoints.storing()`.
        """
        assert not self.finished
        validated = len(self.history)
        while len(self.history) == validated:
            began = time.perf_counter()
            epoch = self.progress.epoch + 1
            losses = self._train_epoch(epoch)
            # Whether or not it validates: a resumed run starts from the first worker's buffers too.
            self.workers.share_buffers(self.step.trainee)
            last = epoch == self.settings.epochs
            if last or epoch % self.settings.evaluate_every == 0:
                self._validate(epoch, losses)
            self.progress.epoch = epoch
            self.progress.seconds += time.perf_counter() - began
            warned = self.workers.warned()
            if last or warned or epoch % self.settings.checkpoint_every == 0:
                self.save()
            if warned and not last:
                self.checkpoints.flush()  # whoever leaves ends the group, and with it what is not stored yet
                self.workers.leave()
        return self.history[-1]

    def trained(self) -> Trained:
        """The finished run; call it once, when `finished`."""
        assert self.progress.best is not None  # the last epoch validates
        network = self.step.trainee.network
        network.load_state_dict(self.best_weights)
        return Trained(network.eval(), self.progress.best, self.progress.history, self.progress.seconds)

    def save(self) -> None:
        """Have a checkpoint of this epoch stored, by the first worker; within `checkpoints.storing()`."""
        self.saved = self.progress.epoch
        if not self.workers.is_first:
            return
        progress = self.progress
        best = (int(progress.best["epoch"]), self.best_weights) if progress.best is not None else None
        trainee, optimiser = self.step.trainee, self.step.optimiser
        tensors = {f"trainee.{k}": v for k, v in trainee.state_dict().items()}
        tensors |= {f"momentum.{k}": v for k, v in _momenta(trainee, optimiser).items()}
        self.checkpoints.save(progress.epoch, tensors, vars(progress), best)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint`: of this run, or of one with the same networks and schedule."""
        self.progress = Progress(**checkpoint.record)
        trainee = self.step.trainee
        trainee.load_state_dict(_below("trainee.", checkpoint.tensors))
        _set_momenta(trainee, self.step.optimiser, _below("momentum.", checkpoint.tensors))
        self.best_weights = checkpoint.best
        self.saved = checkpoint.epoch

    def _build(self, start: Mapping[str, Tensor] | None) -> Step:
        run, data, device = self.run, self.data, self.workers.device
        torch.manual_seed(self._seed("weights"))
        network = build_network(
            run,
            num_classes=data.num_classes,
            image_shape=data.image_shape,
            mean=data.mean,
            std=data.std,
            start=start,
        ).to(device)
        if self.settings.speed.cache_teachers and self.teachers is not None:
            self.teacher_cache = open_cache(
                cache_folder("teachers"), self.teachers, data.train.images, run.augmentation
            )
        for module in (network, self.teachers):
            if module is not None:
                lay_out(module, self.settings.speed)
        name = "label" if run.student is None else objective_for(run.student.method, _objective(run))
        objective = build_objective(name, run.distillation)
        trainee = build_trainee(network, objective, self.teachers, as_float(data.train.images[:2]))
        factors = run.student.factors if run.student is not None else None
        return Step(
            trainee=trainee.train(),
            parallel=self.workers.parallel(trainee),
            objective=objective,
            perturbation=run.perturbation,
            perturbation_temperature=_perturbation_temperature(run),
            optimiser=build_optimiser(trainee, self.settings, factors),
            speed=self.settings.speed,
        )

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; the mean loss and terms of the whole global batches."""
        self.step.trainee.train()
        order = epoch_order(self._seed("order"), epoch, len(self.data.train.labels))
        sums: dict[str, Tensor] = {}
        reported = began = time.perf_counter()
        batches = torch.from_numpy(global_batches(order, self.settings.batch_size))
        for index, rows in enumerate(batches):
            step = (epoch - 1) * self.steps_per_epoch + index
            rate = self._set_learning_rate(step)
            batch = self.batch(step, rows)
            losses = self.step(batch)
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * batch.weight
            self._stop_if_diverged(losses["loss"], step, rate)
            if (now := time.perf_counter()) - reported >= PROGRESS_EVERY_S and self.workers.is_first:
                reported = now
                speed = (index + 1) * self.settings.batch_size / (now - began)
                self._report_progress(epoch, step + 1, float(losses["loss"]), speed)
        totals = self.workers.total(torch.stack(list(sums.values()))) / (len(batches) * self.workers.size)
        return {f"train/{name}": value for name, value in zip(sums, totals.tolist(), strict=True)}

    def batch(self, step: int, rows: Tensor) -> Batch:
        """This worker's share of the global batch of the training images `rows`, drawn for `step`."""
        size = len(rows)
        start, stop = self.workers.shard(size)
        generator = torch.Generator().manual_seed(self._seed("augmentation", step))
        augmentation = draw_augmentation(generator, size, self.run.augmentation)
        teachers = self._teachers_of(step)
        perturbation = draw(
            self.run.perturbation.kind,
            torch.Generator().manual_seed(self._seed("perturbation", step)),
            batch_size=size,
            num_teachers=len(teachers) if teachers is not None else 0,
        )
        # Dropout and the like draw from the global generator, differently on every worker.
        self.workers.seed_noise(self._seed("noise", step, self.workers.rank))
        taught = None
        if self.teacher_cache is not None:
            taught = to_device(
                self.teacher_cache.lookup(rows, augmentation)[:, start:stop], self.workers.device
            )
            if self.rotates:
                taught = torch.stack([taught[(step + m) % len(taught)] for m in range(_members(self.run))])
        mine = to_device(rows[start:stop], self.workers.device)
        return Batch(
            images=self.data.train.images[mine],
            labels=self.data.train.labels[mine],
            augmentation=augmentation.rows(start, stop),
            perturbation=perturbation.rows(start, stop),
            teachers=teachers,
            teacher_logits=taught,
            weight=(stop - start) * self.workers.size / size,
        )

    @property
    def rotates(self) -> bool:
        """Whether members change teachers from step to step."""
        distillation = self.run.distillation
        return distillation is not None and distillation.assignment == "rotating"

    def _teachers_of(self, step: int) -> Teachers | None:
        if self.teachers is None or not self.rotates:
            return self.teachers
        return self.teachers.rotated(step, _members(self.run))

    def _set_learning_rate(self, step: int) -> float:
        factor = learning_rate_factor(
            self.settings.schedule,
            step=step,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.settings.epochs,
        )
        factors = self.run.student.factors if self.run.student is not None else Factors()
        warmup = linear_warmup(step, warmup_steps=factors.warmup_epochs * self.steps_per_epoch)
        set_learning_rate(self.step.optimiser, factor, warmup)
        return self.settings.learning_rate * factor

    def _stop_if_diverged(self, loss: Tensor, step: int, rate: float) -> None:
        # Reading the loss waits for a GPU or other workers: there it is looked at now and then; a NaN stays.
        alone = self.workers.size == 1 and self.workers.device.type == "cpu"
        end_of_epoch = (step + 1) % self.steps_per_epoch == 0
        if not (alone or end_of_epoch or step % 20 == 19):
            return
        if not math.isfinite(total := float(self.workers.total(loss))):
            raise self._diverged(f"the loss became {total}", step, rate)
        # A loss is of the weights before its step; what the step made of them is about to be kept.
        if end_of_epoch and not _all_finite(self.step.trainee):
            raise self._diverged("the weights became infinite or NaN", step, rate)

    def _diverged(self, what: str, step: int, rate: float) -> TrainingDiverged:
        name = self.checkpoints.key(self.saved) if self.saved is not None else "none yet"
        return TrainingDiverged(
            f"{self.run.name}: {what} at step {step + 1} (epoch {step // self.steps_per_epoch + 1}), "
            f"learning rate {rate:.4g}; last good checkpoint: {name}. "
            "Lower the learning rate or lengthen the warm-up"
        )

    def _report_progress(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        total = self.steps_per_epoch * self.settings.epochs
        self.reporter.progress(epoch, step, total, loss, images_per_s)

    def _validate(self, epoch: int, losses: dict[str, float]) -> None:
        network = self.step.trainee.network
        split = self.data.validation
        try:
            with computing(self.settings.speed, self.workers.device):
                found = validate(network, split.images, split.labels, self.workers)
        except FloatingPointError as error:  # of weights that are finite, and so large that logits are not
            step = epoch * self.steps_per_epoch - 1
            raise self._diverged(str(error), step, self._set_learning_rate(step)) from None
        record = {"epoch": float(epoch), **losses, **found}
        self.progress.history.append(record)
        if _better(record, self.progress.best, selected_by(self.run)):
            self.progress.best = record
            self.best_weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        if self.workers.is_first:
            self.reporter.epoch(record)
            if warning := averaging_gap_warning(self.progress.history):
                self.reporter.warning(f"{self.run.name}: {warning}")

    def _seed(self, *parts: str | int) -> int:
        return derive_seed(self.run.seed, self.run.name, *parts)


def _members(run: TrainingRun) -> int:
    return run.student.members if run.student is not None else 1


def _objective(run: TrainingRun) -> str:
    return run.distillation.objective if run.distillation is not None else "auto"


def _perturbation_temperature(run: TrainingRun) -> float:
    if run.perturbation.temperature is not None:
        return run.perturbation.temperature
    return run.distillation.temperature if run.distillation is not None else 1.0


def selected_by(run: TrainingRun) -> str:
    """Whose validation accuracy judges an epoch of `run`: "averaged" or "members"."""
    return run.student.select_by if run.student is not None and run.student.method != "kd" else "averaged"


def quality(record: Mapping[str, float], by: str) -> tuple[float, float]:
    """Higher is better: the validation accuracy of what `selected_by` names; of equals the lower NLL."""
    return record[f"{by}/accuracy"], -record[f"{by}/nll"]


def _better(record: dict[str, float], best: dict[str, float] | None, by: str) -> bool:
    return best is None or quality(record, by) > quality(best, by)


def _all_finite(module: nn.Module) -> bool:
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in tensors]).all())


def _momenta(trainee: Trainee, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: Any = optimiser.state
    return {
        name: momentum
        for name, parameter in trainee.named_parameters()
        if (momentum := state.get(parameter, {}).get("momentum_buffer")) is not None
    }


def _set_momenta(trainee: Trainee, optimiser: torch.optim.Optimizer, momenta: dict[str, Tensor]) -> None:
    for name, parameter in trainee.named_parameters():
        if name in momenta:
            momentum = torch.empty_like(parameter).copy_(momenta[name])  # the parameter's layout
            optimiser.state[parameter]["momentum_buffer"] = momentum


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

"""The loop of one training run: steps, validation, report, checkpoint."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ekd_train.data.tensors import TrainingData
from ekd_train.data.user_cache import cache_folder
from ekd_train.distributed import Workers
from ekd_train.evaluation.evaluate import averaging_gap_warning, validate
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.bounded_tensors import room_for
from ekd_train.persistence.checkpoint import Checkpoint, Checkpoints
from ekd_train.settings import Factors, TrainingRun
from ekd_train.training.batches import Batches
from ekd_train.training.errors import TrainingDiverged
from ekd_train.training.optimiser import set_learning_rate
from ekd_train.training.replay import Replay
from ekd_train.training.reporter import Reporter
from ekd_train.training.schedule import learning_rate_factor, linear_warmup
from ekd_train.training.speed import computing
from ekd_train.training.state import (
    Progress,
    all_finite,
    check_of_run,
    load_own_tensors,
    load_state_tensors,
    own_tensors,
    progress_in,
    quality,
    selected_by,
    state_tensors,
)
from ekd_train.training.step import build_step
from ekd_train.training.teacher_cache import open_cache
from ekd_train.training.within_epoch import Interruptions

PROGRESS_EVERY_S = 0.5
LOSS_CHECKED_EVERY = 20
"""Steps, where reading the loss waits for a GPU or for other workers; a NaN stays until then."""


@dataclass(frozen=True)
class Trained:
    """A finished run: its network holds the weights of the best validated epoch."""

    network: nn.Module
    best: dict[str, float]
    """The record of that epoch."""
    history: list[dict[str, float]]
    """The records of all validated epochs."""
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
    """Train `run` to its end: from its newest checkpoint if there is one, else from `start` if given.

    Every random choice is a function of (seed, run, step), so that a run that was cut off and
    continued ends with the same bits (same device and number of workers), and any number of
    workers sees the same augmented images.

    Raises `TrainingDiverged`: loss or a weight became NaN or infinite; `ComputationDiffers`: see `Replay`;
    `ValueError`: fewer training images than a batch, or settings that do not fit the network.
    """
    loop = Loop(run, data, checkpoints, reporter, workers, teachers, start)
    reporter.started(loop.epoch, loop.within)
    with checkpoints.storing():
        while not loop.finished:
            loop.advance()
    return loop.trained()


class Loop:
    """A training run that its caller moves on, one validated epoch at a time; arguments as `train`.

    for every epoch:                                                    advance
        for every global batch:                                         _train_epoch
            checkpoint, if it is time to in the midst of an epoch       save
            compare what workers compute, if it is time to              (ekd_train.training.replay)
            set the learning rate
            draw augmentation, perturbation and teachers; take this worker's rows
            step                                                        (ekd_train.training.step)
            stop if the loss or the weights are not finite
        give every worker the first one's buffers
        validate the averaged network and the members; report; keep the best weights   _validate
        checkpoint                                                      save

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
        cache = None
        images = data.train.images
        if self.settings.speed.cache_teachers and teachers is not None and isinstance(images, Tensor):
            cache = open_cache(cache_folder("teachers"), teachers, images, run.augmentation)
        self.batches = Batches(run, data, workers, teachers, cache)
        self.step = build_step(run, data, workers, teachers, start)
        self.replay = Replay(self.step, self.batches, workers)
        self.progress = Progress(epoch=0, seconds=0.0, history=[], best=None)
        self.best_weights: dict[str, Tensor] = {}
        self.saved: str | None = None  # key of the newest checkpoint
        self.within, self.sums = 0, dict[str, Tensor]()  # steps done of the next epoch, their losses
        self.interruptions = Interruptions(workers, self.settings.checkpoint_every_minutes)
        self.began = time.perf_counter()
        check = partial(check_of_run, self.step, self.batches.per_epoch)
        if found := checkpoints.newest(check, room_for(self.step.trainee.state_dict(), 8)):
            self.load(found)

    def advance(self) -> dict[str, float]:
        """Train up to and including the next epoch that is validated; its record. Not once `finished`.

        Called within `checkpoints.storing()`.
        """
        assert not self.finished
        validated = len(self.history)
        while len(self.history) == validated:
            self.began = time.perf_counter()
            losses = self._train_epoch(epoch := self.epoch + 1)
            # Whether or not it validates: a resumed run starts from the first worker's buffers too.
            self.workers.share_buffers(self.step.trainee)
            self.step.end_epoch(epoch)
            if self.step.ema is not None:
                self.workers.share_buffers(self.step.ema.module)
            last = epoch == self.settings.epochs
            if last or epoch % self.settings.evaluate_every == 0:
                self._validate(epoch, losses)
            self.progress.epoch, self.within, self.sums = epoch, 0, {}
            self._count_time()
            preempted = self.workers.preemption_announced()
            if last or preempted or epoch % self.settings.checkpoint_every == 0:
                self.save()
            if preempted and not last:
                self.checkpoints.flush()  # a worker that exits ends the others too
                self.workers.exit_if_preempted()
        return self.history[-1]

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; the mean loss and terms of the whole global batches."""
        self.step.trainee.train()
        sums, done = self.sums, self.within
        reported, batches = (began := time.perf_counter()), self.batches.of_epoch(epoch)
        for index, rows in enumerate(batches[done:], done):
            if index > done and self.interruptions.due():
                self._interrupt(index)
            step = (epoch - 1) * len(batches) + index
            self.replay(step, rows)
            rate = self._set_learning_rate(step)
            share = self.batches.parts(step, rows)
            losses = self.step(*share)
            weight = sum(part.weight for part in share)
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * weight
            self._stop_if_diverged(losses["loss"], step, rate)
            self.reporter.stepped(step + 1)
            if (now := time.perf_counter()) - reported >= PROGRESS_EVERY_S and self.workers.is_first:
                reported = now
                images_per_s = (index + 1 - done) * self.settings.batch_size / (now - began)
                steps = len(batches) * self.settings.epochs
                self.reporter.progress(epoch, step + 1, steps, float(losses["loss"]), images_per_s)
        self.reporter.stepped(None)
        totals = self.workers.total(torch.stack(list(sums.values()))) / (len(batches) * self.workers.size)
        return {f"train/{name}": value for name, value in zip(sums, totals.tolist(), strict=True)}

    def _interrupt(self, steps: int) -> None:
        """Checkpoint after `steps` of this epoch; leave, if this machine is about to go."""
        self.reporter.stepped(None)
        infinite = torch.tensor(float(not all_finite(self.step.trainee)), device=self.workers.device)
        if self.workers.total(infinite) > 0:
            step = self.epoch * self.batches.per_epoch + steps - 1
            raise self._diverged("the weights became infinite or NaN", step, self._set_learning_rate(step))
        self.within = steps
        self.save()
        if self.interruptions.announced:
            self.checkpoints.flush()  # a worker that exits ends the others too
            self.workers.exit_if_preempted()

    def _validate(self, epoch: int, losses: dict[str, float]) -> None:
        """Add the epoch's record to the history, and keep its weights if they are the best so far."""
        network, split = self.step.kept, self.data.validation
        try:
            with computing(self.settings.speed, self.workers.device):
                found = validate(network, split.images, split.labels, self.workers)
        except FloatingPointError as error:  # of weights that are finite, and so large that logits are not
            step = epoch * self.batches.per_epoch - 1
            raise self._diverged(str(error), step, self._set_learning_rate(step)) from None
        record = {"epoch": float(epoch), **losses, **found}
        self.history.append(record)
        best, by = self.progress.best, selected_by(self.run)
        if best is None or quality(record, by) > quality(best, by):  # equals keep the earlier epoch
            self.progress.best = record
            self.best_weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        if self.workers.is_first:
            self.reporter.epoch(record)
            if warning := averaging_gap_warning(self.history):
                self.reporter.warning(f"{self.run.name}: {warning}")

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.progress.epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.settings.epochs

    @property
    def history(self) -> list[dict[str, float]]:
        """The records of all validated epochs, earlier starts' included."""
        return self.progress.history

    def trained(self) -> Trained:
        """The finished run; call it once, when `finished`."""
        assert self.progress.best is not None  # the last epoch validates
        network = self.step.trainee.network
        network.load_state_dict(self.best_weights)
        return Trained(network.eval(), self.progress.best, self.history, self.progress.seconds)

    def save(self) -> None:
        """Have a checkpoint of this moment stored, by the first worker; within `checkpoints.storing()`."""
        self.saved = self.checkpoints.key(self.epoch, self.within)
        self.interruptions.saved()
        self._count_time()
        tensors = state_tensors(self.step)
        if self.within:
            tensors |= own_tensors(self.step, self.sums, self.workers)
        if not self.workers.is_first:
            return
        progress = self.progress
        best = (int(progress.best["epoch"]), self.best_weights) if progress.best is not None else None
        self.checkpoints.save(progress.epoch, tensors, vars(progress), best, self.within)

    def _count_time(self) -> None:
        """Add what has passed of training since this epoch began, or since the last call in it."""
        now = time.perf_counter()
        self.progress.seconds += now - self.began
        self.began = now

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint`: of this run, or of one with the same networks and schedule."""
        self.progress = progress_in(checkpoint)
        load_state_tensors(self.step, checkpoint.tensors)
        self.sums = load_own_tensors(self.step, checkpoint.tensors, self.workers)
        self.best_weights, self.within = checkpoint.best, checkpoint.step
        self.saved = self.checkpoints.key(checkpoint.epoch, checkpoint.step)

    def _set_learning_rate(self, step: int) -> float:
        """Set every group's learning rate for `step`; the network's own, without that of factors."""
        steps_per_epoch = self.batches.per_epoch
        schedule, epochs = self.settings.schedule, self.settings.epochs
        factor = learning_rate_factor(schedule, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
        factors = self.run.student.factors if self.run.student is not None else Factors()
        warmup_steps = factors.warmup_epochs * steps_per_epoch
        set_learning_rate(self.step.optimiser, factor, linear_warmup(step, warmup_steps=warmup_steps))
        return self.settings.learning_rate * factor

    def _stop_if_diverged(self, loss: Tensor, step: int, rate: float) -> None:
        alone = self.workers.size == 1 and self.workers.device.type == "cpu"
        end_of_epoch = (step + 1) % self.batches.per_epoch == 0
        if not (alone or end_of_epoch or (step + 1) % LOSS_CHECKED_EVERY == 0):
            return
        if not math.isfinite(total := float(self.workers.total(loss))):
            raise self._diverged(f"the loss became {total}", step, rate)
        # A loss is of the weights before its step; what the step made of them is about to be kept.
        if end_of_epoch and not all_finite(self.step.trainee):
            raise self._diverged("the weights became infinite or NaN", step, rate)

    def _diverged(self, what: str, step: int, rate: float) -> TrainingDiverged:
        epoch = step // self.batches.per_epoch + 1
        return TrainingDiverged(
            f"{self.run.name}: {what} at step {step + 1} (epoch {epoch}), learning rate {rate:.4g}; "
            f"last good checkpoint: {self.saved or 'none yet'}. "
            "Lower the learning rate or lengthen the warm-up"
        )

"""The batches of one run, with every random choice that a step needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ekd_train.data.augment import AugmentationDraw, crops_of, draw_augmentation
from ekd_train.data.mixing import Mixing, draw_mixing
from ekd_train.data.packed.loader import Stream, Wanted
from ekd_train.data.sampler import epoch_order, global_batches, shard_bounds
from ekd_train.data.seeds import derive_seed
from ekd_train.data.tensors import TrainingData
from ekd_train.data.transfer import to_device
from ekd_train.distributed import Workers
from ekd_train.models.teachers import Teachers
from ekd_train.perturbations import draw
from ekd_train.settings import TrainingRun
from ekd_train.training.step import Batch
from ekd_train.training.teacher_cache import TeacherCache


@dataclass(frozen=True)
class _Part:
    """Images `[start, stop)` of a global batch, and which of its rows they are made of."""

    start: int
    stop: int
    needed: Tensor
    mixing: Mixing | None


class Batches:
    """Draws batches; every choice is a function of (seed, run, step), whatever was drawn before.

    Choices are made for the whole global batch and then divided, so that any number of workers sees
    the same augmented images.

    Raises `ValueError` when there are fewer training images than a batch.
    """

    def __init__(
        self,
        run: TrainingRun,
        data: TrainingData,
        workers: Workers,
        teachers: Teachers | None,
        teacher_cache: TeacherCache | None,
    ) -> None:
        self.run, self.data, self.workers = run, data, workers
        self.teachers, self.teacher_cache = teachers, teacher_cache
        self.members = run.student.members if run.student is not None else 1
        self.rotating = run.distillation is not None and run.distillation.assignment == "rotating"
        self._stream: Stream | None = None
        """Where images are packed; of one epoch, and begun anew if it is not at the step that is drawn."""
        self._next = 0
        self.per_epoch = len(global_batches(self._order(0), run.training.batch_size))

    def of_worker(self, rank: int) -> "Batches":
        """The same, as worker `rank` draws them."""
        workers = replace(self.workers, rank=rank)
        return Batches(self.run, self.data, workers, self.teachers, self.teacher_cache)

    def of_epoch(self, epoch: int) -> Tensor:
        """Numbers of the training images of each global batch, int64 `(steps, batch_size)`."""
        return torch.from_numpy(global_batches(self._order(epoch), self.run.training.batch_size))

    def draw(self, step: int, rows: Tensor) -> Batch:
        """This worker's share of the global batch of the training images `rows`, drawn for `step`.

        As `parts`, in one piece.
        """
        return self._draw(step, rows, 1)[0]

    def parts(self, step: int, rows: Tensor) -> tuple[Batch, ...]:
        """The share in `training.accumulate` parts, or as many as there are images.

        Seeds the global generator too, from which dropout and the like draw, differently on every worker.
        """
        return self._draw(step, rows, self.run.training.accumulate)

    def _draw(self, step: int, rows: Tensor, count: int) -> tuple[Batch, ...]:
        size, device = len(rows), self.workers.device
        augmentation = self._augmentation(step, size)
        teachers = self.teachers_at(step)
        perturbation = draw(
            self.run.perturbation.kind,
            torch.Generator().manual_seed(self._seed("perturbation", step)),
            batch_size=size,
            num_teachers=len(teachers) if teachers is not None else 0,
        )
        self.workers.seed_noise(self._seed("noise", step, self.workers.rank))
        teacher_logits = None
        if self.teacher_cache is not None:
            teacher_logits = self.teacher_cache.lookup(rows, augmentation)
            if self.rotating:
                teacher_logits = torch.stack(
                    [teacher_logits[(step + m) % len(teacher_logits)] for m in range(self.members)]
                )
        parts = self._parts(step, size, count)
        sizes = [len(part.needed) for part in parts]
        mine = to_device(rows[torch.cat([part.needed for part in parts])], device)
        images, labels = (
            self._images(step, mine, count).split(sizes),
            self.data.train.labels[mine].split(sizes),
        )

        def logits_of(part: _Part) -> Tensor | None:
            return (
                None
                if teacher_logits is None
                else to_device(teacher_logits[:, part.start : part.stop], device)
            )

        return tuple(
            Batch(
                images=images[index],
                labels=labels[index],
                augmentation=augmentation.at(part.needed),
                perturbation=perturbation.rows(part.start, part.stop),
                teachers=teachers,
                teacher_logits=logits_of(part),
                weight=(part.stop - part.start) * self.workers.size / size,
                mixing=part.mixing,
            )
            for index, part in enumerate(parts)
        )

    def _augmentation(self, step: int, size: int) -> AugmentationDraw:
        generator = torch.Generator().manual_seed(self._seed("augmentation", step))
        return draw_augmentation(generator, size, self.run.augmentation)

    def _parts(self, step: int, size: int, count: int) -> list[_Part]:
        """This worker's share of a global batch of `size` images, in at most `count` parts."""
        mixing = None
        if self.run.augmentation.mixes:
            generator = torch.Generator().manual_seed(self._seed("mixing", step))
            mixing = draw_mixing(generator, size, self.run.augmentation)
        start, stop = self.workers.shard(size)
        count = min(count, max(1, stop - start))
        bounds = (shard_bounds(stop - start, part, count) for part in range(count))
        found = []
        for first, last in ((start + first, start + last) for first, last in bounds):
            needed, mixed = mixing.rows(first, last) if mixing else (torch.arange(first, last), None)
            found.append(_Part(first, last, needed, mixed))
        return found

    def teachers_at(self, step: int) -> Teachers | None:
        """The teachers of `step`: all, or with `distillation.assignment=rotating` one for each member."""
        if self.teachers is None or not self.rotating:
            return self.teachers
        return self.teachers.rotated(step, self.members)

    def _images(self, step: int, mine: Tensor, count: int) -> Tensor:
        images = self.data.train.images
        if isinstance(images, Tensor):
            return images[mine]
        goes_on = self._stream is not None and self._stream.live and self._next == step
        if not goes_on or step % self.per_epoch == 0:
            self._stream = images.stream(self._shares_from(step, count))
        assert self._stream is not None
        self._next = step + 1
        return next(self._stream)

    def _shares_from(self, step: int, count: int) -> Iterator[Wanted]:
        """The images that this worker needs for `step` and each step after it, to the end of the epoch."""
        batches = self.of_epoch(step // self.per_epoch + 1)[step % self.per_epoch :]
        for later, rows in enumerate(batches, step):
            needed = torch.cat([part.needed for part in self._parts(later, len(rows), count)])
            crops = None
            if self.run.augmentation.crop == "photograph":
                crops = crops_of(self._augmentation(later, len(rows)).at(needed))
            yield Wanted(rows[needed].numpy(), crops)

    def _order(self, epoch: int) -> np.ndarray:
        return epoch_order(self._seed("order"), epoch, len(self.data.train.labels))

    def _seed(self, *parts: str | int) -> int:
        return derive_seed(self.run.seed, self.run.name, *parts)

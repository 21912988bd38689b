"""Packed images as tensors, decoded ahead of the step by processes beside it."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ekd_train.data.boxes import cut_out
from ekd_train.data.errors import DataError
from ekd_train.data.packed.images import PackedImages
from ekd_train.data.pixels import Cut
from ekd_train.data.transfer import to_device

BATCHES_AHEAD = 2
"""That each process decodes before they are asked for."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """Images that are to be decoded.

    `rows`: int64 `(b,)`. `crops`: `(b, RECTANGLE)` of `ekd_train.data.boxes`, which part of each; None: what
    the settings frame.
    """

    rows: np.ndarray
    crops: Tensor | None = None


class _Decoder(Dataset[Tensor]):
    """What a loader process does: from row numbers to pixels."""

    def __init__(self, images: PackedImages) -> None:
        self.images = images

    def __getitem__(self, wanted: Wanted) -> Tensor | DataError:  # type: ignore[override]
        try:
            return torch.from_numpy(self.images.decoded(wanted.rows, self._cuts(wanted.crops)))
        except DataError as error:  # as a value: the library would rebuild it from its message alone
            return error

    def _cuts(self, crops: Tensor | None) -> list[Cut] | None:
        if crops is None:
            return None
        scale, size = self.images.settings.augmentation.scale, self.images.shape[-1]
        return [partial(cut_out, numbers, scale, size) for numbers in crops.tolist()]


class _Requests:
    """The batches that are wanted next; replaced when something else is."""

    def __init__(self) -> None:
        self.wanted: Iterator[Wanted] = iter(())

    def __iter__(self) -> Iterator[Wanted]:
        return self.wanted


class Loader:
    """Decodes batches of one packed folder in `processes` processes; 0: in this one.

    One stream of batches at a time: opening another ends the one before, and what was decoded ahead of it is
    dropped. Processes are started for the first, and end with this object or this process.
    """

    def __init__(self, images: PackedImages, processes: int, device: torch.device) -> None:
        self.device = device
        self.current: Stream | None = None
        self._requests = _Requests()
        self._decoder = _Decoder(images.take(slice(0)))
        self._processes = processes
        self._made: DataLoader[Tensor] | None = None

    def stream(self, batches: Iterable[Wanted]) -> "Stream":
        """The images of each of `batches`, whose rows are those of the folder, in order."""
        self._requests.wanted = iter(batches)
        if self._made is None:
            self._made = DataLoader(
                self._decoder,
                batch_size=None,
                sampler=self._requests,
                num_workers=self._processes,
                prefetch_factor=BATCHES_AHEAD if self._processes else None,
                persistent_workers=self._processes > 0,
                multiprocessing_context=_context() if self._processes else None,
                worker_init_fn=_end_with_owner,
                pin_memory=self.device.type == "cuda",
                # Its own: whether a run has loader processes must not move the global generator.
                generator=torch.Generator(),
            )
        self.current = Stream(self, iter(self._made))
        return self.current


class Stream(Iterator[Tensor]):
    """Batches of uint8 images `(b, c, h, w)` on the loader's device, in the order that was asked for.

    Raises `DataError` for an image that cannot be decoded.
    """

    def __init__(self, loader: Loader, batches: Iterator[Tensor | DataError]) -> None:
        self._loader, self._batches = loader, batches

    @property
    def live(self) -> bool:
        """Whether no other stream was opened since."""
        return self._loader.current is self

    def __next__(self) -> Tensor:
        batch = next(self._batches)
        if isinstance(batch, DataError):
            raise batch
        return batch.to(self._loader.device, non_blocking=True)


class StreamedImages:
    """Stands for the uint8 tensor `(n, c, h, w)` of packed images: what is asked for is decoded then."""

    def __init__(self, images: PackedImages, loader: Loader) -> None:
        self._images, self._loader = images, loader
        self.shape = torch.Size(images.shape)
        self.device = loader.device

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        """A few of them, decoded in this process."""
        chosen = indices if isinstance(indices, slice) else indices.cpu().numpy()
        return to_device(torch.from_numpy(self._images[chosen]), self.device)

    def stream(self, batches: Iterable[Wanted | slice]) -> Stream:
        """Each of `batches` of these images, decoded ahead by the loader's processes."""
        rows = self._images.rows
        return self._loader.stream(
            Wanted(rows[batch]) if isinstance(batch, slice) else replace(batch, rows=rows[batch.rows])
            for batch in batches
        )


def _end_with_owner(_: int) -> None:
    """In a loader process: see to it that it ends when the process that wants the images does, however.

    torch's own loop looks whether the parent is alive, which is the process that forked it: that lives on, as
    long as those that it forked.
    """

    def wait() -> None:
        if owner := multiprocessing.parent_process():
            owner.join()
            os._exit(1)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def _context() -> BaseContext:
    """Processes are forked from one that has imported this module and has no threads, unlike this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context

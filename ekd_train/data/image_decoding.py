"""Decoding images into one uint8 array a split, in parallel and once."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ekd_train.settings import DataSettings

from .dataset import Channels, Source, Split
from .errors import DataError
from .image_files import ImageFiles, Listing
from .memory import memory_limit
from .pixels import GREY_MODES, header, names_in_warnings, pixels

CHUNK = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode(
    listing: Listing, settings: DataSettings, normalisation: tuple[Channels, Channels] | None = None
) -> Source:
    """Decode every image to one common shape; what Pillow has to say of files becomes findings.

    Images are turned as their EXIF orientation says, and grey (c = 1) if all of them are, otherwise
    RGB (c = 3). What is transparent shows `settings.background`. With `settings.image_size` they
    become that many pixels square as `settings.resize` says, by Pillow's antialiased bilinear filter;
    without, all must be of one size.

    Raises:
        DataError: naming the first file that cannot be decoded, is of another size than the first, has
            more than 8 bits a channel, or more than `settings.max_image_pixels`, and how many more
            there are; or the data set, when the decoded images would not fit into this machine's memory.
    """
    everything = [files.image(row) for files in listing.splits.values() for row in range(len(files.names))]
    with names_in_warnings() as findings:
        headers = in_parallel(lambda image: header(image, settings.max_image_pixels), everything)
        grey = all(mode in GREY_MODES for mode, _ in headers)
        size = settings.image_size
        area = size * size if size else max(width * height for _, (width, height) in headers)
        _check_memory(len(everything) * (1 if grey else 3) * area, listing.where)
        first = pixels(everything[0], grey, settings)
        decoded = {}
        for split, files in listing.splits.items():
            images = np.empty((len(files.names), *first.shape), dtype=np.uint8)

            def fill(index: int, images: np.ndarray = images, files: ImageFiles = files) -> None:
                image = pixels(files.image(index), grey, settings)
                if image.shape != first.shape:
                    raise _another_size(files.names[index], image, everything[0].name, first)
                images[index] = image

            in_parallel(fill, range(len(files.names)))
            decoded[split] = Split(images, files.labels, np.array(files.names))
    return Source(
        train=decoded["train"],
        test=decoded.get("test"),
        class_names=listing.class_names,
        official_order=False,
        validation=decoded.get("validation"),
        normalisation=normalisation,
        findings=(*listing.findings, *findings),
    )


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of every item, in order; threads suffice, as Pillow decodes outside the GIL.

    Of the items that fail, the first is raised, and says how many there are. Items go to the threads in
    chunks, because handing over one small image costs as much as decoding it.
    """

    def of_chunk(start: int) -> tuple[list[Result], list[DataError]]:
        done, failed = [], []
        for item in items[start : start + CHUNK]:
            try:
                done.append(function(item))
            except DataError as error:
                failed.append(error)
        return done, failed

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        chunks = list(pool.map(of_chunk, range(0, len(items), CHUNK)))
    finally:
        pool.shutdown(cancel_futures=True)
    failures = [error for _, failed in chunks for error in failed]
    if len(failures) > 1:
        first, second, *rest = failures
        more = f" and {len(rest)} more" if rest else ""
        raise DataError(first.where, f"{first.problem} (so is {second.where}{more})", first.remedy)
    if failures:
        raise failures[0]
    return [result for done, _ in chunks for result in done]


def _another_size(name: str, image: np.ndarray, other: str, first: np.ndarray) -> DataError:
    (height, width), (wanted_height, wanted_width) = image.shape[1:], first.shape[1:]
    return DataError(
        name,
        f"is {width}x{height} pixels, but {other} is {wanted_width}x{wanted_height}",
        "set data.image_size to bring all images to one size",
    )


def _check_memory(needed: int, where: str | Path) -> None:
    """Refuse at once what the kernel would kill much later; data sets are held in memory."""
    available = memory_limit()
    if needed > available:
        raise DataError(
            where,
            f"decodes to {needed / 2**30:.1f} GiB, more than the {available / 2**30:.1f} GiB of this machine",
            "set a smaller data.image_size",
        )

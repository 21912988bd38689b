"""Decoding image files into one uint8 array, in parallel and once."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ekd_train.settings import DataSettings

from .dataset import Split
from .errors import DataError
from .image_tree import ImageFiles

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
"""What Pillow may take a file for, whatever its name: readers of other formats start programs (EPS)."""

CHUNK = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode_splits(splits: Sequence[ImageFiles], folder: Path, settings: DataSettings) -> list[Split]:
    """Decode every split to one common shape.

    Images are grey (c = 1) if all of them are, otherwise RGB (c = 3); transparency is dropped.
    With `settings.image_size` they are resized to that many pixels square, without keeping their
    aspect ratio, by Pillow's antialiased bilinear filter; without, all must be of one size.

    Raises:
        DataError: naming the first file that cannot be decoded, is of another size than the
            first, has more than 8 bits a channel, or more than `settings.max_image_pixels`; or
            `folder`, when the decoded images would not fit into this machine's memory.
    """
    image_size = settings.image_size

    def header(path: Path) -> tuple[str, tuple[int, int]]:
        return _header(path, settings.max_image_pixels)

    paths = [path for split in splits for path in split.paths]
    headers = _in_parallel(header, paths)
    channels = 1 if all(mode in GREY_MODES for mode, _ in headers) else 3
    width, height = (
        (image_size, image_size) if image_size else _common_size(paths, [size for _, size in headers])
    )
    _check_memory(len(paths) * channels * height * width, folder)

    def pixels(path: Path) -> np.ndarray:
        return _pixels(path, "L" if channels == 1 else "RGB", (width, height))

    decoded = []
    for split in splits:
        images = np.empty((len(split.paths), channels, height, width), dtype=np.uint8)

        def fill(row: int, images: np.ndarray = images, paths: list[Path] = split.paths) -> None:
            images[row] = pixels(paths[row])

        _in_parallel(fill, range(len(split.paths)))
        decoded.append(Split(images, split.labels))
    return decoded


def _in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of every item, in order; threads suffice, as Pillow decodes outside the GIL.

    The first failure in the items' order is raised and what is left is not begun. Items go to
    the threads in chunks, because handing over one small image costs as much as decoding it.
    """

    def of_chunk(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + CHUNK]]

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        return [result for chunk in pool.map(of_chunk, range(0, len(items), CHUNK)) for result in chunk]
    finally:
        pool.shutdown(cancel_futures=True)


def _header(path: Path, max_pixels: int) -> tuple[str, tuple[int, int]]:
    with _open(path) as image:
        if image.width * image.height > max_pixels:
            raise DataError(
                path,
                f"is {image.width}x{image.height} pixels, more than data.max_image_pixels={max_pixels}",
                "replace or remove the file, or raise that limit (a core decodes one such image at a time)",
            )
        if image.mode not in GREY_MODES | COLOUR_MODES:
            raise DataError(
                path, f"has pixels of mode {image.mode}, not 8 bits a channel", "convert it to 8 bits"
            )
        return image.mode, image.size


def _pixels(path: Path, mode: str, size: tuple[int, int]) -> np.ndarray:
    """One image as uint8 `(c, h, w)`."""
    with _open(path) as image:
        try:
            converted = image.convert(mode)
            if converted.size != size:
                converted = converted.resize(size, Image.Resampling.BILINEAR)
        except Exception as error:
            raise _damaged(path, error) from error
    values = np.asarray(converted)
    return values[None] if mode == "L" else values.transpose(2, 0, 1)


def _open(path: Path) -> Image.Image:
    """The image, not decoded yet. Pillow's readers raise anything on bytes that they do not expect."""
    try:
        return Image.open(path, formats=FORMATS)
    except PermissionError as error:
        raise DataError(path, "cannot be read (permission denied)", "check the file's permissions") from error
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(path, f"cannot be decoded as an image ({reason})", "replace or remove the file")


def _common_size(paths: list[Path], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                path,
                f"is {size[0]}x{size[1]} pixels, but {paths[0]} is {sizes[0][0]}x{sizes[0][1]}",
                "set data.image_size to resize all images to one size",
            )
    return sizes[0]


def _check_memory(needed: int, folder: Path) -> None:
    """Refuse at once what the kernel would kill much later; data sets are held in memory."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise DataError(
            folder,
            f"decodes to {needed / 2**30:.1f} GiB, more than the {available / 2**30:.1f} GiB of this machine",
            "set a smaller data.image_size",
        )

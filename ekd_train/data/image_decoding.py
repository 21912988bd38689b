"""Decoding images into one uint8 array a split, in parallel and once."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ekd_train.settings import DataSettings

from .dataset import Channels, Source, Split
from .errors import DataError
from .image_files import ImageFiles, Listing

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
"""What Pillow may take a file for, whatever its name: readers of other formats start programs (EPS)."""

PNG_BITS = 24
"""Where a PNG says how many bits a channel has; Pillow shows 16 as 8 and keeps the higher ones."""

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
    everything = [(files, index) for files in listing.splits.values() for index in range(len(files.names))]
    with _names_in_warnings() as findings:
        headers = _in_parallel(lambda item: _header(*item, settings.max_image_pixels), everything)
        grey = all(mode in GREY_MODES for mode, _ in headers)
        size = settings.image_size
        pixels = size * size if size else max(width * height for _, (width, height) in headers)
        _check_memory(len(everything) * (1 if grey else 3) * pixels, listing.where)
        first = _pixels(*everything[0], grey, settings)
        decoded = {}
        for split, files in listing.splits.items():
            images = np.empty((len(files.names), *first.shape), dtype=np.uint8)

            def fill(index: int, images: np.ndarray = images, files: ImageFiles = files) -> None:
                image = _pixels(files, index, grey, settings)
                if image.shape != first.shape:
                    raise _another_size(files.names[index], image, everything[0][0].names[0], first)
                images[index] = image

            _in_parallel(fill, range(len(files.names)))
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


def _in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
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


def _header(files: ImageFiles, index: int, max_pixels: int) -> tuple[str, tuple[int, int]]:
    name = files.names[index]
    with _opened(files, index) as image:
        if image.width * image.height > max_pixels:
            raise DataError(
                name,
                f"is {image.width}x{image.height} pixels, more than data.max_image_pixels={max_pixels}",
                "replace or remove the file, or raise that limit (a core decodes one such image at a time)",
            )
        deep = image.format == "PNG" and _png_bits(files, index) > 8
        if deep or image.mode not in GREY_MODES | COLOUR_MODES:
            raise DataError(name, "has more than 8 bits a channel", "convert it to 8 bits")
        return image.mode, image.size


def _png_bits(files: ImageFiles, index: int) -> int:
    with files.open(index) as file:
        return file.read(PNG_BITS + 1)[PNG_BITS]


def _pixels(files: ImageFiles, index: int, grey: bool, settings: DataSettings) -> np.ndarray:
    """One image as uint8 `(c, h, w)`."""
    size, background = settings.image_size, settings.background
    with _opened(files, index) as image:
        if size:  # a JPEG of a camera need not be decoded at its full size: several times faster
            image.draft(None, (4 * size, 4 * size))
        image.load()
        _turn(image)
        shown = _over(image, background) if image.has_transparency_data else image
        converted = shown.convert("L" if grey else "RGB")
        if size and converted.size != (size, size):
            converted = _framed(converted, size, settings)
        values = np.asarray(converted)
    return values[None] if grey else values.transpose(2, 0, 1)


def _turn(image: Image.Image) -> None:
    """As a viewer shows it. An EXIF block that cannot be read turns nothing."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception as error:  # it holds whatever some program wrote
        warnings.warn(f"its EXIF block cannot be read ({error}), so it is shown as stored", stacklevel=2)
        return
    if orientation != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _over(image: Image.Image, background: int) -> Image.Image:
    whole = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, (background,) * 3 + (255,)), whole)


def _framed(image: Image.Image, size: int, settings: DataSettings) -> Image.Image:
    bilinear, square = Image.Resampling.BILINEAR, (size, size)
    if settings.resize == "squash":
        return image.resize(square, bilinear)
    if settings.resize == "pad":
        colour = settings.background if image.mode == "L" else (settings.background,) * 3
        return ImageOps.pad(image, square, bilinear, color=colour)
    return ImageOps.fit(image, square, bilinear)


_CURRENT = threading.local()


@contextmanager
def _names_in_warnings() -> Iterator[list[str]]:
    """A list of what Pillow warns of, each with the first file's name."""
    first: dict[str, str] = {}
    found: list[str] = []

    def note(message: Warning | str, *_: object, **__: object) -> None:
        first.setdefault(" ".join(str(message).split()), getattr(_CURRENT, "name", "a file"))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield found
    found += [f"{name}: {message}" for message, name in first.items()]


@contextmanager
def _opened(files: ImageFiles, index: int) -> Iterator[Image.Image]:
    """The image, not decoded yet. Pillow's readers raise anything on bytes that they do not expect."""
    _CURRENT.name = name = files.names[index]
    try:
        with files.open(index) as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(name, "cannot be read (permission denied)", "check the file's permissions") from error
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image in any known format"  # Pillow's own words name an object in memory
    return DataError(name, f"cannot be decoded as an image ({reason})", "replace or remove the file")


def _another_size(name: str, image: np.ndarray, other: str, first: np.ndarray) -> DataError:
    (height, width), (wanted_height, wanted_width) = image.shape[1:], first.shape[1:]
    return DataError(
        name,
        f"is {width}x{height} pixels, but {other} is {wanted_width}x{wanted_height}",
        "set data.image_size to bring all images to one size",
    )


def _check_memory(needed: int, where: str | Path) -> None:
    """Refuse at once what the kernel would kill much later; data sets are held in memory."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise DataError(
            where,
            f"decodes to {needed / 2**30:.1f} GiB, more than the {available / 2**30:.1f} GiB of this machine",
            "set a smaller data.image_size",
        )
